"""The unsharded model on the global batch: losses, logits and gradients of every micro-batch, and their noise floor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside.proof.driver import Driver, MicroBatch
from tpscope.frameworks.inside.proof.noise import Jitter
from tpscope.frameworks.inside.proof.record import Recorder, Records
from tpscope.frameworks.inside.proof.slices import gathered

# Times the floor. A sharded model sums in another order at every layer and every collective, which is a disturbance of
# the same kind as those that the floor is measured with, not a larger one; the self-test's faults are far above it.
MULTIPLE = 32.0
# Gradients below this share of the model's largest one are compared on that scale, not on their own.
SMALLEST = 1e-6

Grads = dict[str, torch.Tensor]
Place = tuple[int, int]
"""Data rank and index of a micro-batch."""


def clean(name: str) -> str:
    """A parameter's name without what wrappers (activation checkpointing, compile) put into it."""
    for wrapper in ("_checkpoint_wrapped_module.", "_orig_mod.", "_fsdp_wrapped_module."):
        name = name.replace(wrapper, "")
    return name


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter by clean name, tied ones under each of their names."""
    return {clean(name): tensor for name, tensor in model.named_parameters(remove_duplicate=False)}


def gradients(model: nn.Module) -> Grads:
    """The gradients that are there, as they are."""
    return {name: tensor.grad for name, tensor in parameters(model).items() if tensor.grad is not None}


def forget(model: nn.Module) -> None:
    """Drop all gradients."""
    for parameter in model.parameters():
        parameter.grad = None


@dataclass
class Outcome:
    """One pass over micro-batches: what came out, in order."""

    losses: list[float] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    records: list[Records] = field(default_factory=list)


def run(
    driver: Driver,
    model: nn.Module,
    batches: list[MicroBatch],
    tokens: int,
    scale: float = 1.0,
    watch: bool = False,
    mend: Any = None,
) -> Outcome:
    """Forward, the framework's loss and backward of each micro-batch; gradients accumulate in the model.

    `scale` multiplies the loss before the backward (data ranks that average). `mend(model)` is a context around each
    backward. Losses are those of the whole model: sums over labels divided by `tokens`.
    """
    model.train()
    found = Outcome()
    recorder = Recorder(model) if watch else None
    with recorder or contextlib.nullcontext():
        for batch in batches:
            with driver.forward():
                loss, logits = driver.loss(model, batch, tokens)
                with mend(model) if mend else contextlib.nullcontext():
                    (loss * scale).backward()
            found.losses.append(float(gathered(loss.detach())))
            found.logits.append(logits.detach())
    if recorder:
        found.records = recorder.all
    return found


@dataclass
class Reference:
    """What the unsharded model gives, and how far it moves by rounding alone."""

    losses: dict[Place, float]
    logits: dict[Place, torch.Tensor]
    parts: dict[Place, Grads]
    total: Grads
    largest: float
    floors: dict[str, float]
    loss_floor: float
    logits_floor: float
    records: dict[Place, Records]
    tokens: int
    identity: dict[str, int] = field(default_factory=dict)
    draws: int = 0
    plain: Grads = field(default_factory=dict)

    def scale(self, name: str) -> float:
        """The norm that an error of this parameter's gradient is divided by."""
        norm = float(self.total[name].norm()) if name in self.total else 0.0
        return max(norm, SMALLEST * self.largest) or 1.0

    def norm(self) -> float:
        """Norm of all gradients, a tied parameter counted once."""
        seen: dict[int, float] = {}
        for name, grad in self.total.items():
            seen.setdefault(self.identity.get(name, id(grad)), float(grad.norm()) ** 2)
        return float(sum(seen.values()) ** 0.5)

    def reweigh(self, weights: dict[Place, float]) -> None:
        """Count each micro-batch with its weight from here on; `plain` keeps the sum as it was."""
        self.plain = self.total
        self.parts = {
            place: {name: grad * weights[place] for name, grad in part.items()} for place, part in self.parts.items()
        }
        self.total = _sum(list(self.parts.values()))
        self.largest = max((float(grad.norm()) for grad in self.total.values()), default=0.0)

    def tolerance(self, name: str) -> float:
        """Largest relative error of this parameter's gradient that rounding can explain."""
        return MULTIPLE * max(self.floors.get(name, 0.0), self.loss_floor, torch.finfo(torch.float64).eps)

    def error(self, name: str, mine: torch.Tensor | None, expected: torch.Tensor | None = None) -> float:
        """Relative error of a gradient against (a part of) the reference's; an absent gradient counts as zero."""
        wanted = expected if expected is not None else self.total.get(name)
        if wanted is None:
            return 0.0 if mine is None else float(mine.norm()) / self.scale(name)
        difference = wanted if mine is None else mine.to(wanted.dtype) - wanted
        return float(difference.norm()) / self.scale(name)


def refer(
    driver: Driver, model: nn.Module, batches: dict[Place, MicroBatch], tokens: int, measure: bool, watch: bool,
    drawn: Callable[[], int] = lambda: 0,
) -> Reference:  # fmt: skip
    """Run the reference. `measure`: its noise floor too; `watch`: keep what every module saw; `drawn`: how many dropout
    masks were drawn so far."""
    losses, logits, parts, records = {}, {}, {}, {}
    for place, batch in batches.items():
        forget(model)
        outcome = run(driver, model, [batch], tokens, watch=watch)
        losses[place], logits[place] = outcome.losses[0], gathered(outcome.logits[0])
        parts[place] = {name: grad.detach().clone() for name, grad in gradients(model).items()}
        if outcome.records:
            records[place] = outcome.records[0]
    forget(model)
    draws = drawn()
    total = _sum(list(parts.values()))
    largest = max((float(grad.norm()) for grad in total.values()), default=0.0)
    found = Reference(losses, logits, parts, total, largest, {}, 0.0, 0.0, records, tokens)
    found.draws = draws
    found.identity = {name: id(parameter) for name, parameter in parameters(model).items()}
    if measure:
        _measure(driver, model, batches, found)
    return found


def _sum(parts: list[Grads]) -> Grads:
    total: Grads = {}
    for part in parts:
        for name, grad in part.items():
            total[name] = total[name] + grad if name in total else grad.clone()
    return total


def _measure(driver: Driver, model: nn.Module, batches: dict[Place, MicroBatch], found: Reference) -> None:
    """Two runs with every result one ulp off, one with the samples in reverse order."""
    reverse = [{key: value.flip(0) for key, value in batch.items()} for batch in batches.values()]
    runs: list[tuple[list[MicroBatch], Any]] = [
        (list(batches.values()), Jitter(1)),
        (list(batches.values()), Jitter(2)),
    ]
    runs.append((reverse, contextlib.nullcontext()))
    whole_loss = sum(found.losses.values())
    for batch_list, disturbance in runs:
        forget(model)
        with disturbance:
            outcome = run(driver, model, batch_list, found.tokens)
        for name, grad in gradients(model).items():
            found.floors[name] = max(found.floors.get(name, 0.0), found.error(name, grad))
        found.loss_floor = max(found.loss_floor, abs(sum(outcome.losses) - whole_loss) / abs(whole_loss))
        if batch_list is not reverse:
            for mine, whole in zip(outcome.logits, found.logits.values(), strict=True):
                error = float((gathered(mine) - whole).norm() / whole.norm())
                found.logits_floor = max(found.logits_floor, error)
    forget(model)
