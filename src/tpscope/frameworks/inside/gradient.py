"""What happens over tp to every parameter's gradient: a traced backward of a small model, then the training loop's own
statements up to the optimizer step. The small model has the real one's head counts and divisibility, two layers, and
real numbers, on a fake process group."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside import params
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.trace import Trail, failure, ours
from tpscope.frameworks.inside.wire import MARK, Recorder
from tpscope.language.answer import FrameworkAnswer
from tpscope.language.plan import wildcard
from tpscope.language.verdict import Reduction, Status

BATCH, SEQUENCE = 2, 64


def inputs(vocabulary: int) -> dict[str, torch.Tensor]:
    """Random token ids `[BATCH, SEQUENCE]` and labels of the same shape."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, vocabulary, (BATCH, SEQUENCE), generator=generator)
    return {"input_ids": ids, "labels": ids.clone()}


def control(case: Case, build: Callable[[], nn.Module]) -> nn.Module | None:
    """The small model, unsharded, run once: if that fails the fault is not in the sharding and nothing is observed."""
    model = build()
    try:
        with torch.no_grad():
            model(input_ids=inputs(vocabulary(model))["input_ids"])
    except Exception as error:  # noqa: BLE001 - any failure here means the same: no control, no observation
        found = failure(error, "control", case.roots)[0]
        words = f"the small model does not run unsharded here: {found.kind}: {found.message}"
        case.answer.forward["unobserved"] = words
        return None
    return model


def stir(model: nn.Module) -> None:
    """Give LoRA's zero-initialised matrices random numbers: zeros would hide the gradient of the matrix before them."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            local = _local(parameter)
            if "lora_B" in name and not bool(local.any()):
                local.copy_(torch.randn(local.shape, generator=generator) * 0.02)


class Observation:
    """The gradients of a sharded small model on their way from the backward to the optimizer step.

    Use as a context around forward and backward; then `backward_done`, the loop's own work, and `before_step`. The
    framework's lines that run in the backward (hooks) and after it go into `trail`.
    """

    def __init__(self, case: Case, trail: Trail):
        self.case = case
        self.trail = trail
        self.recorder = Recorder(case.request.layout.tp)
        self._before: dict[str, torch.Tensor] = {}
        self._pending: dict[str, bool] = {}
        self._backward: dict[str, Reduction] = {}

    @property
    def reached_backward(self) -> bool:
        """True once there are gradients."""
        return bool(self._before)

    def phase(self, name: str) -> None:
        """Collectives from here on belong to `name`: forward, loss, backward."""
        self.recorder.phase = name

    def backward_done(self, model: nn.Module) -> None:
        """Gradients are what the backward left. What follows is the loop's doing."""
        graded = [(name, p) for name, p in model.named_parameters() if p.grad is not None]
        self._before = {name: _local(p.grad).clone() for name, p in graded}
        self._pending = {name: _pending(p.grad) for name, p in graded}
        self._backward = _reduced_in_backward(model, self.recorder)
        self.recorder.phase = "loop"

    def before_step(self, model: nn.Module) -> None:
        """Gradients are what the optimizer would see: fill `gradient_loop` of every parameter of the answer."""
        found = {}
        for name, parameter in model.named_parameters():
            if name in self._before and parameter.grad is not None:
                looped = _classify(self._before[name], _local(parameter.grad), self.recorder.size)
                found[wildcard(_plain(name))] = _combine(self._backward.get(name), self._pending[name], looped)
        _fill(self.case.answer, found)
        if self.case.answer.head.tied:
            self.case.answer.head.tied_after_step = params.tied(model)
        self.case.answer.forward.pop("unobserved", None)
        phases = ("forward", "loss", "backward", "loop")
        self.case.answer.forward["collectives_small_model"] = {phase: self.recorder.count(phase) for phase in phases}
        self.case.answer.gradient_trail = self.trail.lines

    def failed(self, error: Exception) -> None:
        """Something raised. In forward or backward it is how this framework fares with this model; in the loop it may
        be something that is missing here. What is missing on our side is never the framework's crash."""
        missing = isinstance(error, ImportError) or ours(error)
        phase = "loop" if missing else self.recorder.phase
        found, deliberate = failure(
            error, "training loop" if phase == "loop" else f"{phase} of the sharded small model", self.case.roots
        )
        if phase == "loop":
            self.case.answer.forward["unobserved"] = f"{found.kind}: {found.message}"
            if not missing:
                self.case.answer.loop_error = self.case.answer.loop_error or found
        else:
            self.case.answer.status = Status.REFUSED if deliberate else Status.CRASHED
            self.case.answer.error = found


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "").removeprefix("module.")


def without_tp(answer: FrameworkAnswer) -> None:
    """One rank on the tp axis: there is nobody to reduce with."""
    for row in answer.parameters:
        row.gradient_loop = Reduction.NONE


def _fill(answer: FrameworkAnswer, found: dict[str, Reduction]) -> None:
    for row in answer.parameters:
        if row.placement != "Replicate()":
            row.gradient_loop = Reduction.SHARDED
        elif not row.trainable:
            row.gradient_loop = Reduction.NONE
        else:
            row.gradient_loop = found.get(wildcard(row.name), Reduction.UNOBSERVED)


def _combine(backward: Reduction | None, pending: bool, loop: Reduction) -> Reduction:
    if loop == Reduction.UNOBSERVED:
        return loop
    if Reduction.SUM in (backward, loop) or pending:
        return Reduction.SUM
    return loop if loop != Reduction.NONE else (backward or Reduction.NONE)


def _classify(before: torch.Tensor, after: torch.Tensor, size: int) -> Reduction:
    """Which reduction a gradient went through, from the mark that the recorder put on what was reduced."""
    chosen = before.abs() > before.abs().max() * 1e-3
    if not bool(chosen.any()):
        return Reduction.UNOBSERVED
    ratio = float((after[chosen] / before[chosen]).double().median())
    for value, reduction in ((1.0, Reduction.NONE), (MARK, Reduction.MEAN), (size * MARK, Reduction.SUM)):
        if abs(ratio / value - 1) < 0.02:
            return reduction
    return Reduction.UNOBSERVED


def _reduced_in_backward(model: nn.Module, recorder: Recorder) -> dict[str, Reduction]:
    """Parameters whose own gradient a collective of the backward read: by storage, or (DTensor reduces a partial
    gradient before it is accumulated) by a reduction of exactly the parameter's shape, one for each such parameter."""
    found: dict[str, Reduction] = {}
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        calls = recorder.reducing("backward", _local(parameter.grad).untyped_storage()._cdata)
        if calls:
            # A sum and a mean of the same gradient, in either order, leave the sum.
            found[name] = Reduction.SUM if any(call.op == "sum" for call in calls) else Reduction.MEAN
        elif isinstance(parameter, DTensor) and _replicated_on_tp(parameter):
            shapes.setdefault(tuple(parameter.shape), []).append(name)
    for shape, names in shapes.items():
        calls = [c for c in recorder.calls if c.phase == "backward" and c.kind == "all_reduce" and c.shape == shape]
        if len(calls) >= len(names):
            found.update(dict.fromkeys(names, Reduction.SUM))
    return found


def _replicated_on_tp(parameter: DTensor) -> bool:
    axes = parameter.device_mesh.mesh_dim_names or ("tp",)
    return "tp" in axes and parameter.placements[axes.index("tp")].is_replicate()


def _pending(gradient: torch.Tensor) -> bool:
    return isinstance(gradient, DTensor) and any(placement.is_partial() for placement in gradient.placements)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def vocabulary(model: nn.Module) -> int:
    """Number of token ids of a causal LM."""
    return int(model.config.get_text_config().vocab_size)
