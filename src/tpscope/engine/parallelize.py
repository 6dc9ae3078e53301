"""Runs a derived plan on an unmodified model: plain local parameters, hooks at the borders of regions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from tpscope.engine.collectives import Axis, copy_to_ranks, count_once, sum_of_ranks
from tpscope.engine.edges import hook_edge
from tpscope.engine.slices import divide, put, take
from tpscope.engine.vocabulary import gather_last
from tpscope.errors import UserError
from tpscope.language.sharding import Cut, Misfit, Region, RegionKind, Sharding, Share


@dataclass(frozen=True)
class Sharded:
    """A model that was parallelized: what this rank holds of each parameter, and where its vocabulary begins."""

    model: nn.Module
    axis: Axis
    cuts: dict[str, Cut]
    vocabulary_begin: int


def parallelize(model: nn.Module, axis: Axis, plan: Sharding, logits: Literal["sharded", "whole"] = "whole") -> Sharded:
    """Shard `model` in place. `logits` "sharded": every rank's logits are its slice of the vocabulary.

    Raises UserError before anything is changed where the plan is for another number of ranks or does not fit.
    """
    if plan.tp != axis.size:
        raise UserError(f"the plan is for {plan.tp} ranks and the axis has {axis.size}; derive it for {axis.size}")
    regions = [found for region in plan.regions for found in _instances(model, region)]
    cuts = _fitted(model, regions, axis)
    shares = {name: share for region in regions for name, share in region.shares.items()}
    for name, new in _local(model, cuts, axis).items():
        put(model, name, new)
    for region in regions:
        divide(model, region.settings)
    done: set[int] = set()
    for name, share in shares.items():
        _hook_parameter(model, name, replace(share, cut=cuts.get(name)), axis, done)
    begin = 0
    for region in regions:
        if region.kind is RegionKind.HEAD:
            begin = _vocabulary(region, cuts, axis)[axis.rank][0]
        for edge in region.edges:
            hook_edge(model.get_submodule(edge.module), edge, axis)
        _hook_region(model, region, cuts, axis, logits)
    return Sharded(model, axis, cuts, begin)


@dataclass(frozen=True)
class _Rank:
    """The first of so many ranks, of which only sizes are asked."""

    size: int
    rank: int = 0


def held_fraction(model: nn.Module, plan: Sharding) -> float:
    """Which part of a model's parameters (it may be on meta) the plan cuts. Raises UserError where it does not fit."""
    regions = [found for region in plan.regions for found in _instances(model, region)]
    cuts = _fitted(model, regions, _Rank(plan.tp))
    cut = {id(tensor): tensor.numel() for tensor in (_tensor(model, name) for name in cuts)}
    return sum(cut.values()) / max(1, sum(parameter.numel() for parameter in model.parameters()))


def _instances(model: nn.Module, region: Region) -> Iterator[Region]:
    """The region for every place in the model that it fits: all of its names are there."""
    modules = [name for name, _ in model.named_modules()]
    tensors = [name for name, _ in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]]
    for numbers in dict.fromkeys(n for name in modules for n in _stars(region.exits[0], name)):
        shares = {
            name: share for pattern, share in region.shares.items() for name in _expand(pattern, numbers, tensors)
        }
        present = all(any(True for _ in _expand(pattern, numbers, tensors)) for pattern in region.shares)
        if present:
            settings = {
                f"{owner}.{attribute}": divisor
                for pattern, divisor in region.settings.items()
                for owner, attribute in _owners(pattern, numbers, modules)
            }
            yield replace(
                region,
                entries=tuple(_filled(pattern, numbers) for pattern in region.entries),
                exits=tuple(_filled(pattern, numbers) for pattern in region.exits),
                shares=shares,
                settings=settings,
                edges=tuple(replace(edge, module=_filled(edge.module, numbers)) for edge in region.edges),
            )


def _stars(pattern: str, name: str) -> Iterator[tuple[str, ...]]:
    text = r"\.".join(r"(\d+)" if part == "*" else re.escape(part) for part in pattern.split("."))
    if match := re.fullmatch(text, name):
        yield match.groups()


def _filled(pattern: str, numbers: tuple[str, ...]) -> str:
    """The pattern with its first stars replaced by the numbers; what is left stays."""
    for number in numbers:
        pattern = re.sub(r"(?<=\.)\*(?=\.|$)", number, pattern, count=1)
    return pattern


def _expand(pattern: str, numbers: tuple[str, ...], names: Iterable[str]) -> Iterator[str]:
    filled = _filled(pattern, numbers)
    return (name for name in names if any(True for _ in _stars(filled, name)))


def _owners(pattern: str, numbers: tuple[str, ...], modules: list[str]) -> Iterator[tuple[str, str]]:
    owner, _, attribute = pattern.rpartition(".")
    of_config = owner.endswith(".config")
    for name in _expand(owner.removesuffix(".config"), numbers, modules):
        yield (f"{name}.config" if of_config else name), attribute


def _tensor(model: nn.Module, name: str) -> torch.Tensor:
    owner, _, leaf = name.rpartition(".")
    found: torch.Tensor = getattr(model.get_submodule(owner), leaf)
    return found


def _fitted(model: nn.Module, regions: list[Region], axis: Axis | _Rank) -> dict[str, Cut]:
    """The cuts in the model's own sizes. Raises UserError where one does not fit."""
    cuts: dict[str, Cut] = {}
    for region in regions:
        for name, share in region.shares.items():
            if share.cut is None:
                continue
            size = _tensor(model, name).shape[share.cut.dim]
            try:
                cut = share.cut.scaled(size) if size != share.cut.size else share.cut
                list(cut.ranges(axis.rank, axis.size))
            except Misfit as misfit:
                raise UserError(
                    f"{name}: dim {share.cut.dim} of size {size} cannot be cut over {axis.size} ranks ({misfit}); "
                    "use a number of ranks that divides it"
                ) from misfit
            cuts[name] = cut
    return cuts


def _local(model: nn.Module, cuts: dict[str, Cut], axis: Axis) -> dict[str, torch.Tensor]:
    """The rank's slices, one for each tensor: tied weights are one tensor under two names."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, cut in cuts.items():
        tensor = _tensor(model, name)
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = take(tensor.detach(), cut, axis.rank, axis.size)
    return found


def _hook_parameter(model: nn.Module, name: str, share: Share, axis: Axis, done: set[int]) -> None:
    tensor = _tensor(model, name)
    if share.summed and tensor.requires_grad and id(tensor) not in done:
        done.add(id(tensor))
        # On what one backward pass adds, not on what has been accumulated.
        tensor.register_hook(lambda gradient: _summed(gradient, share.cut, axis))
    if share.once:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        table = module._parameters if leaf in module._parameters else module._buffers

        def before(module: nn.Module, args: Any) -> None:
            module.__dict__[leaf] = count_once(table[leaf], axis.rank)  # type: ignore[arg-type]

        def after(module: nn.Module, args: Any, output: Any) -> None:
            module.__dict__.pop(leaf, None)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after, always_call=True)


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


def _vocabulary(region: Region, cuts: dict[str, Cut], axis: Axis) -> list[tuple[int, int]]:
    cut = next(cuts[name] for name in region.shares)
    return [next(iter(cut.ranges(rank, axis.size))) for rank in range(axis.size)]


def _hook_region(model: nn.Module, region: Region, cuts: dict[str, Cut], axis: Axis, logits: str) -> None:
    exit_ = model.get_submodule(region.exits[0])
    if region.kind is RegionKind.LOOKUP:
        _hook_lookup(exit_, *_vocabulary(region, cuts, axis)[axis.rank], axis)
        return
    for name in region.entries:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, kwargs: tree_map(lambda item: _entered(item, axis), (args, kwargs)), with_kwargs=True
        )
    if region.kind is RegionKind.SUM:
        exit_.register_forward_hook(lambda _, args, output: _left(output, region.outputs, axis))
    elif logits == "whole":
        sizes = tuple(end - begin for begin, end in _vocabulary(region, cuts, axis))
        exit_.register_forward_hook(lambda _, args, output: gather_last(output, sizes, axis))


def _entered(item: Any, axis: Axis) -> Any:
    wanted = isinstance(item, torch.Tensor) and item.is_floating_point() and item.requires_grad
    return copy_to_ranks(item, axis) if wanted else item


def _left(output: Any, positions: tuple[int, ...], axis: Axis) -> Any:
    """The exit's output with the floating tensors at `positions` added over the ranks."""
    leaves, shape = tree_flatten(output)
    floating = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    for position in positions:
        leaves[floating[position]] = sum_of_ranks(leaves[floating[position]], axis)
    return tree_unflatten(leaves, shape)


def _hook_lookup(module: nn.Module, begin: int, end: int, axis: Axis) -> None:
    padding = getattr(module, "padding_idx", None)
    if padding is not None:
        module.padding_idx = padding - begin if begin <= padding < end else None  # type: ignore[assignment]
    masks: list[torch.Tensor] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        def moved(item: Any) -> Any:
            if not isinstance(item, torch.Tensor) or item.is_floating_point():
                return item
            masks.append((item >= begin) & (item < end))
            return (item - begin).clamp(0, end - begin - 1)

        return tree_map(moved, (args, kwargs))

    def after(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        mask = masks.pop()
        shown = mask.reshape(mask.shape + (1,) * (output.dim() - mask.dim()))
        return sum_of_ranks(torch.where(shown, output, 0), axis)

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(after)
