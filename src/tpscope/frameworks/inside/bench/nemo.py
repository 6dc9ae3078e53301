"""NeMo AutoModel on real devices: its public entry builds, shards, compiles and initialises; its loop's loss."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from tpscope.frameworks.inside.bench.subject import Subject, Wanted

_DISTRIBUTED = "nemo_automodel.components.distributed"
_LOSSES = {
    "MaskedCrossEntropy": "nemo_automodel.components.loss.masked_ce",
    "TEParallelCrossEntropy": "nemo_automodel.components.loss.te_parallel_ce",
    "FusedLinearCrossEntropy": "nemo_automodel.components.loss.linear_ce",
    "ChunkedCrossEntropy": "nemo_automodel.components.loss.chunked_ce",
}


def build(wanted: Wanted, device: torch.device) -> NemoSubject:
    """`NeMoAutoModelForCausalLM.from_config` with the plan that it selects; weights are made on the device."""
    from transformers import AutoConfig

    config_module = importlib.import_module(f"{_DISTRIBUTED}.config")
    sizes = importlib.import_module(f"{_DISTRIBUTED}.mesh").ParallelismSizes(tp_size=wanted.tp)
    options = {"sequence_parallel": wanted.sequence_parallel, "enable_compile": wanted.compiled}
    setup = config_module.DistributedSetup.build(config_module.FSDP2Config(**options), sizes)
    made = {key: value for key, value in wanted.config.items() if key != "model_type"}
    config = AutoConfig.for_model(wanted.config["model_type"], **made)
    subject = NemoSubject(wanted, device)
    auto = importlib.import_module("nemo_automodel._transformers.auto_model").NeMoAutoModelForCausalLM
    with subject.around():
        subject.model = auto.from_config(config, torch_dtype=subject.dtype, distributed_setup=setup)
    subject.setup = setup
    subject.model.train()
    return subject


def _imported(name: str) -> Any:
    """A module, imported on a stack of its own: where an optional import inside it fails and the failure is kept, its
    traceback keeps every frame below it, and with ours the first model of the process for good."""
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(importlib.import_module, name).result()


class NemoSubject(Subject):
    """A model from NeMo's entry, stepped as its recipe's loop steps it, through the functions that the loop calls."""

    compile_by = "FSDP2Config(enable_compile=True): torch.compile of every decoder layer"

    def __init__(self, wanted: Wanted, device: torch.device):
        super().__init__(wanted, device)
        self.setup: Any = None
        self._loss: Any = None
        self._utils = importlib.import_module("nemo_automodel.components.loss.utils")
        self._outputs = importlib.import_module("nemo_automodel.components.training.model_output_utils")

    def losses(self) -> tuple[str, ...]:
        return tuple(_LOSSES)

    def prepare(self, loss: str) -> None:
        self._loss = getattr(_imported(_LOSSES[loss]), loss)()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """As `_forward_backward_step` of the recipe: labels shifted by the dataset, the sum divided by their number."""
        labels = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -100)], dim=1)
        linear = isinstance(self._loss, self._utils.LinearCrossEntropy)
        extra = {"logits_to_keep": 1, "output_hidden_states": True} if linear else {}
        output = self.model(input_ids=ids, **extra)
        options: dict[str, Any] = {}
        if linear:
            options["lm_weight"] = self._utils.prepare_lm_weight(self._loss, self.model, grad_reduce_group=None)
        loss: torch.Tensor = self._utils.calculate_loss(
            self._loss,
            logits=getattr(output, "logits", output),
            labels=labels,
            model=self.model,
            hidden_states=self._outputs.get_final_hidden_states(output),
            num_label_tokens=ids.shape[0] * (ids.shape[1] - 1),
            **options,
        )
        return loss

    def optimizer(self) -> torch.optim.Optimizer:
        """NeMo's AdamWConfig, which turns `foreach` off over a mesh with tp."""
        config = _imported("nemo_automodel.components.optim.optimizer").AdamWConfig(lr=0.0)
        made: torch.optim.Optimizer = config.build(self.model, device_mesh=self.setup.mesh_context.device_mesh)[0]
        return made

    def around(self) -> AbstractContextManager[Any]:
        if self.device.type == "cuda":
            return nullcontext()
        from tpscope.frameworks.inside.proof.nemo_recipe import OnCpu

        self.notes = ["rehearsal: what NeMo puts on CUDA is put on the CPU"]
        return OnCpu()
