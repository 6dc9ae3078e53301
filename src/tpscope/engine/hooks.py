"""Hooks at the borders of regions: what is gathered or copied in front, and what is added up behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tpscope.engine.collectives import (
    Axis,
    copy_to_ranks,
    count_once,
    gather_sequence,
    scatter_sequence,
    sum_of_ranks,
)
from tpscope.engine.leaves import changed, positions_changed
from tpscope.engine.sequence import Stream
from tpscope.engine.vocabulary import gather_last
from tpscope.language.sharding import Region

_BORDERS = "_tpscope_borders"


def border(module: nn.Module, register: Callable[..., Any], hook: Callable[..., Any], kwargs: bool = False) -> None:
    """Register a hook that belongs to what a module computes, whatever is wrapped around it later (`move_borders`)."""
    handle = register(hook, with_kwargs=True) if kwargs else register(hook)
    module.__dict__.setdefault(_BORDERS, []).append((handle, hook, register.__name__, kwargs))


def move_borders(module: nn.Module, wrapper: nn.Module) -> None:
    """Hang a module's border hooks on what was wrapped around it."""
    for handle, hook, register, kwargs in module.__dict__.pop(_BORDERS, []):
        handle.remove()
        border(wrapper, getattr(wrapper, register), hook, kwargs)


@dataclass
class Passage:
    """The newest pass through a region, or through one and that which carries its sum: was it given parts of the
    sequence, what was made of which tensor, and the terms that are still to be added up."""

    parts: bool = False
    source: torch.Tensor | None = None
    result: torch.Tensor | None = None
    terms: list[torch.Tensor] = field(default_factory=list)


def hook_sum(
    model: nn.Module, region: Region, axis: Axis, stream: Stream | None, shared: bool = True,
    passage: Passage | None = None, carried: bool = False,
) -> None:  # fmt: skip
    """f in front of the entries, g behind the exit; with a stream, gather and reduce-scatter. `shared`: entries that
    are given the same tensor share its collective. `passage`: of two regions with one sum; the one that is `carried`
    leaves zeros, and the other the sum of both."""
    joint = passage is not None
    passage = passage or Passage()
    several = shared and (len(region.entries) > 1 or joint)

    def enter(item: torch.Tensor) -> torch.Tensor:
        part = stream is not None and stream.is_part(item)
        passage.parts = passage.parts or part
        if not part and not (item.is_floating_point() and item.requires_grad):
            return item
        if passage.source is item and passage.result is not None:
            return passage.result  # one collective for all entries that are given the same tensor (q, k and v)
        found = gather_sequence(item, stream.axis) if part and stream is not None else copy_to_ranks(item, axis)
        if several:
            passage.source, passage.result = item, found
        return found

    def leave(item: torch.Tensor) -> torch.Tensor:
        part = stream is not None and passage.parts
        if carried:
            passage.terms.append(item)
            shape = (item.shape[0], item.shape[1] // axis.size, *item.shape[2:]) if part else item.shape
            return item.new_zeros(shape)
        if passage.terms:
            item = item + passage.terms.pop(0)
        if stream is not None and passage.parts:
            return scatter_sequence(item, stream.axis)
        return sum_of_ranks(item, axis)

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if not several:
            passage.parts = False
        if carried:
            passage.terms.clear()
        return changed((args, kwargs), enter)

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        found = positions_changed(output, region.outputs, leave)
        passage.parts = False
        if not carried:
            passage.source, passage.result = None, None
            passage.terms.clear()
        return found

    for name in region.entries:
        entry = model.get_submodule(name)
        border(entry, entry.register_forward_pre_hook, before, kwargs=True)
    exit_ = model.get_submodule(region.exits[0])
    border(exit_, exit_.register_forward_hook, after)


def hook_head(module: nn.Module, sizes: tuple[int, ...], axis: Axis, enter: bool, gather: bool) -> None:
    """f in front of the head, if it is an entry; behind it the slices of the logits side by side, if wanted."""

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        def copied(item: torch.Tensor) -> torch.Tensor:
            return copy_to_ranks(item, axis) if item.is_floating_point() and item.requires_grad else item

        return changed((args, kwargs), copied)

    if enter:
        border(module, module.register_forward_pre_hook, before, kwargs=True)
    if gather:
        border(module, module.register_forward_hook, lambda _, args, output: gather_last(output, sizes, axis))


def hook_lookup(module: nn.Module, begin: int, end: int, axis: Axis) -> None:
    """Foreign ids give zeros, and the ranks' results are added up."""
    padding = getattr(module, "padding_idx", None)
    if padding is not None:
        module.padding_idx = padding - begin if begin <= padding < end else None  # type: ignore[assignment]
    masks: list[torch.Tensor] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        def moved(item: torch.Tensor) -> torch.Tensor:
            if item.is_floating_point():
                return item
            masks.append((item >= begin) & (item < end))
            return (item - begin).clamp(0, end - begin - 1)

        return changed((args, kwargs), moved)

    def after(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        mask = masks.pop()
        shown = mask.reshape(mask.shape + (1,) * (output.dim() - mask.dim()))
        return sum_of_ranks(torch.where(shown, output, 0), axis)

    module.register_forward_pre_hook(before, with_kwargs=True)
    module.register_forward_hook(after)


def hook_once(module: nn.Module, leaf: str, rank: int) -> None:
    """A parameter that is added to the sum of the ranks: zeros on all ranks but the first, while its module runs."""
    table = module._parameters if leaf in module._parameters else module._buffers

    def before(module: nn.Module, args: Any) -> None:
        module.__dict__[leaf] = count_once(table[leaf], rank)  # type: ignore[arg-type]

    def after(module: nn.Module, args: Any, output: Any) -> None:
        module.__dict__.pop(leaf, None)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, always_call=True)
