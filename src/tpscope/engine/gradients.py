"""Gradients over the tensor-parallel axis: summed once a step in one bucket, and clipped by their true norm."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from tpscope.engine.collectives import Axis
from tpscope.engine.held import Part, axis_of, counted, local, parts, state_of, summed_parts
from tpscope.errors import UserError
from tpscope.language.sharding import Cut

_SUMMED = "_tpscope_summed"
_REPLACED = "_tpscope_replaced"
_models: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def finish_gradients(model: nn.Module) -> None:
    """Add what is a part of a gradient on every rank, in one all-reduce: once a step, after its last backward.

    `clip_grad_norm_` and every step of a torch optimizer do this by themselves. Gradients that come later are added to
    what was summed, as they are without tensor parallelism.
    """
    state = state_of(model)
    if state is None or state.axis.size == 1:
        return
    fresh: dict[tuple[torch.dtype, torch.device], list[Part]] = defaultdict(list)
    for part in summed_parts(model, state):
        gradient = part.tensor.grad
        if gradient is not None and not hasattr(gradient, _SUMMED):
            fresh[gradient.dtype, gradient.device].append(part)
    for bucket in fresh.values():
        spread = [_spread(part, state.axis) for part in bucket]
        total = state.axis.sum(torch.cat([item.reshape(-1) for item in spread]))
        for part, item, found in zip(bucket, spread, total.split([item.numel() for item in spread]), strict=True):
            gradient = part.tensor.grad
            assert gradient is not None
            _collect(part, found.view(item.shape), local(gradient), state.axis)
            setattr(gradient, _SUMMED, True)
    state.settled = True


def reopen_gradients(model: nn.Module) -> None:
    """Before more is added to summed gradients: each rank takes its share, so that their next sum is right."""
    state = state_of(model)
    if state is None or not state.settled:
        return
    state.settled = False
    for part in summed_parts(model, state):
        gradient = part.tensor.grad
        if gradient is None or not hasattr(gradient, _SUMMED):
            continue
        delattr(gradient, _SUMMED)
        mine = local(gradient)
        for place, _, length, copies in pieces(part, state.axis):
            _cutout(mine, part.held.cut, place, length).div_(copies)


def pieces(part: Part, axis: Axis) -> Iterator[tuple[int, int, int, int]]:
    """Where a rank's numbers lie along the cut dimension: (place in its own, place in the whole, length, ranks that
    hold the same). A parameter that is whole has one piece along dimension 0."""
    cut = part.held.cut
    begin, end = rows(part.tensor) if cut is None or cut.dim == 0 else (0, part.tensor.shape[cut.dim])
    if cut is None:
        yield 0, begin, end - begin, axis.size
        return
    place = 0
    for segment, (first, last) in zip(cut.segments, cut.ranges(axis.rank, axis.size), strict=True):
        low, high = max(begin, place), min(end, place + last - first)
        if low < high:
            yield low - begin, first + low - place, high - low, segment.copies
        place += last - first


def rows(tensor: torch.Tensor) -> tuple[int, int]:
    """The `[begin, end)` of dimension 0 that data parallelism leaves to this rank."""
    if not isinstance(tensor, DTensor):
        return 0, tensor.shape[0] if tensor.dim() else 1
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return (offset[0], offset[0] + shape[0]) if shape else (0, 1)


def _spread(part: Part, axis: Axis) -> torch.Tensor:
    """A rank's gradient at its place among zeros where only some ranks hold the same slice; else as it is."""
    assert part.tensor.grad is not None
    mine, cut = local(part.tensor.grad), part.held.cut
    if cut is None:
        return mine
    whole = mine.new_zeros(_whole_shape(mine, cut))
    for place, there, length, _ in pieces(part, axis):
        whole.narrow(cut.dim, there, length).copy_(mine.narrow(cut.dim, place, length))
    return whole


def _collect(part: Part, found: torch.Tensor, mine: torch.Tensor, axis: Axis) -> None:
    cut = part.held.cut
    if cut is None:
        mine.copy_(found)
        return
    for place, there, length, _ in pieces(part, axis):
        mine.narrow(cut.dim, place, length).copy_(found.narrow(cut.dim, there, length))


def _whole_shape(mine: torch.Tensor, cut: Cut) -> list[int]:
    shape = list(mine.shape)
    shape[cut.dim] = cut.size
    return shape


def grad_norm(model: nn.Module, groups: tuple[dist.ProcessGroup, ...] = ()) -> torch.Tensor:
    """The 2-norm of all gradients, each number counted once: over tp, over FSDP's axes, and over `groups` (pipeline
    stages). A scalar, the same on every rank. Gradients have to be finished."""
    axis = axis_of(model)
    sums: dict[Any, list[torch.Tensor]] = defaultdict(list)
    for part in parts(model):
        gradient = part.tensor.grad
        if gradient is None or not counted(part):
            continue
        mesh: Any = None
        if isinstance(gradient, DTensor):
            dims = tuple(dim for dim, placement in enumerate(gradient.placements) if isinstance(placement, Shard))
            mesh = (gradient.device_mesh, dims)
        sums[mesh].append(_square(part, axis))
    if not sums:
        raise UserError("no parameter has a gradient to clip; call backward before clip_grad_norm_")
    totals = []
    for mesh, found in sums.items():
        total = torch.stack(found).sum()
        for dim in mesh[1] if mesh is not None else ():
            dist.all_reduce(total, group=mesh[0].get_group(dim))
        totals.append(total)
    total = axis.sum(torch.stack(totals).sum())
    for group in groups:
        dist.all_reduce(total, group=group)
    return total.sqrt()


def _square(part: Part, axis: Axis) -> torch.Tensor:
    """The sum of squares of what this rank counts: of equal slices on several ranks, the first counts."""
    assert part.tensor.grad is not None
    mine = local(part.tensor.grad)
    wide = torch.promote_types(mine.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=mine.device)
    for place, _, length, copies in pieces(part, axis):
        if axis.rank % copies == 0:
            counted = _cutout(mine, part.held.cut, place, length)
            total = total + torch.linalg.vector_norm(counted, dtype=wide).square()
    return total


def _cutout(mine: torch.Tensor, cut: Cut | None, place: int, length: int) -> torch.Tensor:
    return mine.narrow(cut.dim if cut else 0, place, length) if mine.dim() else mine


def clip_grad_norm_(model: nn.Module, max_norm: float, groups: tuple[dist.ProcessGroup, ...] = ()) -> torch.Tensor:
    """Scale all gradients so that their 2-norm is at most `max_norm`, as torch.nn.utils.clip_grad_norm_ does unsharded.

    Every parameter counts once, whoever holds it. Returns the norm before clipping, the same scalar on every rank.
    """
    finish_gradients(model)
    norm = grad_norm(model, groups)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for part in parts(model):
        if part.tensor.grad is not None:
            local(part.tensor.grad).mul_(scale)
    return norm


def watch(model: nn.Module) -> None:
    """From now on a step of an optimizer finishes this model's gradients first."""
    if not _models:
        register_optimizer_step_pre_hook(_before_step)
    _models.add(model)


def replaced(tensor: torch.Tensor) -> None:
    """Note that a parameter is no longer part of its model."""
    setattr(tensor, _REPLACED, True)


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
    if any(hasattr(tensor, _REPLACED) for group in optimizer.param_groups for tensor in group["params"]):
        raise UserError(
            f"{type(optimizer).__name__} was made before tpscope.parallelize and holds weights that are no longer the "
            "model's; make it after"
        )
    for model in _models:
        if any(id(tensor) in held for tensor in model.parameters()):
            finish_gradients(model)
