"""transformers on real devices: its own loader distributes and initialises; the model's own loss, or Liger's."""

from __future__ import annotations

import importlib
import tempfile
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside.bench.subject import Subject, Wanted

_LIGER = "LigerFusedLinearCrossEntropy"


def build(wanted: Wanted, device: torch.device) -> HfSubject:
    """`from_pretrained` with the class's own plan and no file: its loader makes missing weights on the device."""
    from transformers import AutoConfig
    from transformers.distributed import DistributedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    made = {key: value for key, value in wanted.config.items() if key != "model_type"}
    config = AutoConfig.for_model(wanted.config["model_type"], **made)
    subject = HfSubject(wanted, device)
    options: dict[str, Any] = {"device_map": device} if device.type == "cuda" else {}
    if wanted.tp > 1:
        options = {"distributed_config": DistributedConfig(tp_size=wanted.tp)}
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model: nn.Module = kind.from_pretrained(
        None, config=config, state_dict={}, dtype=subject.dtype, attn_implementation="sdpa", **options
    )
    # The Trainer takes a cache for nothing while it trains.
    model.config.use_cache = False
    model.train()
    subject.inner = subject.model = model
    if wanted.compiled:
        subject.model = importlib.import_module("accelerate.utils").compile_regions(model)
    return subject


class HfSubject(Subject):
    """A model of transformers' own class, as its loader returns it."""

    compile_by = (
        "accelerate.utils.compile_regions: torch.compile of every decoder layer, and of what stands beside them"
    )
    inner: nn.Module

    def losses(self) -> tuple[str, ...]:
        own = getattr(self.inner, "loss_function", None)
        return (getattr(own, "__name__", "loss_function"), _LIGER)

    def prepare(self, loss: str) -> None:
        """The class's own forward, or Liger's with the loss fused into the head, put on this model alone."""
        if loss == _LIGER:
            liger = importlib.import_module("liger_kernel.transformers")
            apply = getattr(liger, f"apply_liger_kernel_to_{self.wanted.config['model_type']}")
            apply(
                rope=False, cross_entropy=False, fused_linear_cross_entropy=True, rms_norm=False, swiglu=False,
                model=self.inner,
            )  # fmt: skip
        elif "forward" in vars(self.inner):
            del self.inner.forward

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """As the Trainer calls a model: labels inside, their number given."""
        tokens = ids.shape[0] * (ids.shape[1] - 1)
        loss: torch.Tensor = self.model(input_ids=ids, labels=ids, num_items_in_batch=tokens).loss
        return loss

    def optimizer(self) -> torch.optim.Optimizer:
        """What the Trainer's own function makes of the default `TrainingArguments`: its kind, options and groups."""
        from transformers import Trainer, TrainingArguments

        trainer = object.__new__(Trainer)
        trainer.args = TrainingArguments(output_dir=tempfile.mkdtemp(), report_to=[], learning_rate=0.0)
        trainer.model = trainer.model_wrapped = self.inner
        trainer.optimizer = trainer.optimizer_cls_and_kwargs = None
        made: torch.optim.Optimizer = trainer.create_optimizer()
        return made
