"""tpscope's engine on real devices: a proven plan on an unmodified model, its own loss without logits."""

from __future__ import annotations

import torch
from torch import nn

from tpscope.engine.collectives import ProcessAxis
from tpscope.engine.compiled import compile_layers
from tpscope.engine.gradients import finish_gradients
from tpscope.engine.parallelize import parallelize
from tpscope.errors import UserError
from tpscope.frameworks.inside.bench.subject import Subject, Wanted


def build(wanted: Wanted, device: torch.device) -> TpscopeSubject:
    """`tpscope.parallelize` on a model that transformers makes on the device. Raises UserError without a plan."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if wanted.plan is None and wanted.tp > 1:
        raise UserError(f"no plan for {wanted.tp} ranks was given")
    made = {key: value for key, value in wanted.config.items() if key != "model_type"}
    config = AutoConfig.for_model(wanted.config["model_type"], **made)
    subject = TpscopeSubject(wanted, device)
    with torch.device(device):
        model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=subject.dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    if wanted.plan is not None:
        parallelize(model, ProcessAxis(), wanted.plan, "deferred", "step", wanted.sequence_parallel)
    if wanted.compiled:
        compile_layers(model)
    subject.model = model.train()
    return subject


class TpscopeSubject(Subject):
    """A model of transformers' own class, parallelized."""

    compile_by = "tpscope.compile_layers: torch.compile of every decoder layer, norms and activations computed again"

    def losses(self) -> tuple[str, ...]:
        """The one that `parallelize` leaves a model with."""
        return ("in chunks, without logits",)

    def prepare(self, loss: str) -> None:
        """There is one loss: the model's own, of logits that are not computed whole."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """As a user's loop calls a model: labels inside, their number given."""
        tokens = ids.shape[0] * (ids.shape[1] - 1)
        loss: torch.Tensor = self.model(input_ids=ids, labels=ids, num_items_in_batch=tokens).loss
        return loss

    def backward(self, loss: torch.Tensor) -> None:
        """Backward, and the sums that are made once a step."""
        loss.backward()
        finish_gradients(self.model)

    def optimizer(self) -> torch.optim.Optimizer:
        """A fused AdamW over this rank's own numbers."""
        fused = self.device.type == "cuda"
        return torch.optim.AdamW(self.model.parameters(), lr=0.0, fused=fused)
