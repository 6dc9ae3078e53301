"""Runs a derived plan on an unmodified model: plain local parameters, hooks at the borders of regions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import nn

from tpscope.engine.collectives import Axis
from tpscope.engine.edges import hook_edge
from tpscope.engine.gradients import reopen_gradients, replaced, watch
from tpscope.engine.held import Held, State, attach, note
from tpscope.engine.hooks import Passage, hook_head, hook_lookup, hook_once, hook_sum
from tpscope.engine.logits import deferred
from tpscope.engine.regions import fitted, held_fraction, instances, layers_of, tensor_of
from tpscope.engine.sequence import Stream, around, between, install
from tpscope.engine.slices import divide, put, take
from tpscope.engine.streams import Streams, drops_itself, fork_between, fork_region
from tpscope.errors import UserError
from tpscope.language.sharding import Cut, Region, RegionKind, Sharding

__all__ = ["Sharded", "held_fraction", "parallelize"]


@dataclass(frozen=True)
class Sharded:
    """A model that was parallelized: what this rank holds of each parameter, and where its vocabulary begins."""

    model: nn.Module
    axis: Axis
    cuts: dict[str, Cut]
    vocabulary_begin: int


def parallelize(
    model: nn.Module,
    axis: Any,
    plan: Sharding,
    logits: Literal["sharded", "whole", "deferred"] = "whole",
    sums: Literal["backward", "step"] = "backward",
    sequence_parallel: bool = False,
    entries: Literal["shared", "each"] = "shared",
) -> Sharded:
    """Shard `model` in place.

    `logits`: every rank's slice of the vocabulary, the whole, or whole but computed only if somebody looks at them (the
    loss does not). `sums`: when gradients that are parts are added: in every backward pass, so that they are right at
    any time, or once a step (`gradients.finish_gradients`). `sequence_parallel`: activations between regions are shared
    out over the sequence; `axis` then is a `SequenceAxis`, else an `Axis`. `entries`: those that are given the same
    tensor share its collective, or each has its own, as in engines that know single modules only.

    Raises UserError before anything is changed where the plan is for another number of ranks or does not fit.
    """
    if plan.tp != axis.size:
        raise UserError(f"the plan is for {plan.tp} ranks and the axis has {axis.size}; derive it for {axis.size}")
    regions = instances(model, plan)
    if sequence_parallel:
        regions = [around(model, region) for region in regions]
    cuts = fitted(model, regions, axis)
    first, last, outside = between(model, regions) if sequence_parallel else (model, model, [])
    for name, new in _local(model, cuts, axis).items():
        put(model, name, new)
    for region in regions:
        divide(model, region.settings)
    summed = _note(model, regions, cuts, outside)
    if sums == "backward":
        for name in summed:
            _sum_in_backward(tensor_of(model, name), cuts.get(name), axis)
    stream = Stream(axis) if sequence_parallel else None
    joint = _joint(model, regions)
    begin = 0
    for region in regions:
        for edge in region.edges:
            hook_edge(model.get_submodule(edge.module), edge, axis)
        if region.kind is RegionKind.SUM:
            own = joint.get(region.exits[0])
            hook_sum(model, region, axis, stream, entries == "shared", own, own is not None and not region.carries)
            continue
        module = model.get_submodule(region.exits[0])
        ends = _vocabulary(region, cuts, axis)
        if region.kind is RegionKind.LOOKUP:
            hook_lookup(module, ends[axis.rank][0], ends[axis.rank][1], axis)
            continue
        begin = ends[axis.rank][0]
        sizes = tuple(end - start for start, end in ends)
        late = logits == "deferred" and deferred(module, sizes, axis)
        hook_head(module, sizes, axis, bool(region.entries), gather=logits != "sharded" and not late)
    for name, share in ((name, share) for region in regions for name, share in region.shares.items()):
        if share.once:
            owner, _, leaf = name.rpartition(".")
            hook_once(model.get_submodule(owner), leaf, axis.rank)
    if stream is not None:
        install(stream, first, last)
    streams = Streams(axis.rank)
    inner = [region for region in regions if region.kind is RegionKind.SUM]
    for region in inner:
        fork_region(model, region, cuts, streams)
    if stream is not None:
        fork_between(model, inner, layers_of(model, inner), streams)
    attach(model, State(axis, streams=streams))
    if sums == "step":
        _reopen_before(model, regions)
        watch(model)
    return Sharded(model, axis, cuts, begin)


def _joint(model: nn.Module, regions: list[Region]) -> dict[str, Passage]:
    """What regions that leave one sum share, by exit. Where a layer drops out of their results, each has its own mask
    and its own sum."""
    found: dict[str, Passage] = {}
    for region in regions:
        if region.carries:
            both = (region.carries, region.exits[0])
            parts = [name.split(".") for name in both]
            layer = [one for one, other in takewhile(lambda pair: pair[0] == pair[1], zip(*parts, strict=False))]
            within = {id(part) for name in both for part in model.get_submodule(name).modules()}
            outside = [part for part in model.get_submodule(".".join(layer)).modules() if id(part) not in within]
            if not any(map(drops_itself, outside)):
                found[both[0]] = found[both[1]] = Passage()
    return found


def _local(model: nn.Module, cuts: dict[str, Cut], axis: Axis) -> dict[str, torch.Tensor]:
    """The rank's slices, one for each tensor: tied weights are one tensor under two names."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, cut in cuts.items():
        tensor = tensor_of(model, name)
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = take(tensor.detach(), cut, axis.rank, axis.size)
            replaced(tensor)
    return found


def _note(model: nn.Module, regions: list[Region], cuts: dict[str, Cut], outside: list[str]) -> list[str]:
    """Note what is held on every module that owns a part; the names of parameters whose gradients are parts, once."""
    shares = {name: share for region in regions for name, share in region.shares.items()}
    partial = {id(tensor_of(model, name)): name for name, share in shares.items() if share.summed}
    partial |= {id(tensor_of(model, name)): name for name in outside}
    for name in {*shares, *outside}:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        note(module, leaf, Held(cuts.get(name), id(tensor_of(model, name)) in partial))
        _sizes(module, leaf, cuts.get(name))
    return list(partial.values())


def _sizes(module: nn.Module, leaf: str, cut: Cut | None) -> None:
    """A Linear says the sizes that it has, which adapters are made by."""
    if isinstance(module, nn.Linear) and leaf == "weight" and cut is not None:
        module.out_features, module.in_features = module.weight.shape


def _sum_in_backward(tensor: torch.Tensor, cut: Cut | None, axis: Axis) -> None:
    if tensor.requires_grad:
        # On what one backward pass adds, not on what has been accumulated.
        tensor.register_hook(lambda gradient: _summed(gradient, cut, axis))


def _summed(gradient: torch.Tensor, cut: Cut | None, axis: Axis) -> torch.Tensor:
    """The sum over all ranks that hold the same slice: through the whole tensor where holders differ by slice."""
    if cut is None:
        return axis.sum(gradient)
    shape = list(gradient.shape)
    shape[cut.dim] = cut.size
    whole = gradient.new_zeros(shape)
    offset = 0
    for begin, end in cut.ranges(axis.rank, axis.size):
        whole.narrow(cut.dim, begin, end - begin).copy_(gradient.narrow(cut.dim, offset, end - begin))
        offset += end - begin
    return take(axis.sum(whole), cut, axis.rank, axis.size)


def _reopen_before(model: nn.Module, regions: list[Region]) -> None:
    """Summed gradients are reopened when the next forward pass begins: at the model, and at both its ends, since
    wrappers may call a model's forward without its hooks."""
    ends = [model.get_submodule(region.exits[0]) for region in regions if region.kind is not RegionKind.SUM]
    for module in (model, *ends):
        module.register_forward_pre_hook(lambda *_: reopen_gradients(model) if torch.is_grad_enabled() else None)


def _vocabulary(region: Region, cuts: dict[str, Cut], axis: Axis) -> list[tuple[int, int]]:
    cut = next(cuts[name] for name in region.shares)
    return [next(iter(cut.ranges(rank, axis.size))) for rank in range(axis.size)]
