"""A plan's patterns, met with a model: the regions of every layer, and the cuts in the model's own sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn

from tpscope.errors import UserError
from tpscope.language.sharding import Cut, Misfit, Region, Sharding


class Place(Protocol):
    """One of so many ranks."""

    @property
    def rank(self) -> int:
        """Its number."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...


@dataclass(frozen=True)
class First:
    """The first of so many ranks, of which only sizes are asked."""

    size: int
    rank: int = 0


def held_fraction(model: nn.Module, plan: Sharding) -> float:
    """Which part of a model's parameters (it may be on meta) the plan cuts. Raises UserError where it does not fit."""
    regions = instances(model, plan)
    cuts = fitted(model, regions, First(plan.tp))
    cut = {id(tensor): tensor.numel() for tensor in (tensor_of(model, name) for name in cuts)}
    return sum(cut.values()) / max(1, sum(parameter.numel() for parameter in model.parameters()))


def instances(model: nn.Module, plan: Sharding) -> list[Region]:
    """The plan's regions for every place in the model that they fit."""
    return [found for region in plan.regions for found in _instances(model, region)]


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
                carries=_filled(region.carries, numbers),
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


def tensor_of(model: nn.Module, name: str) -> torch.Tensor:
    """A parameter or buffer by its name."""
    owner, _, leaf = name.rpartition(".")
    found: torch.Tensor = getattr(model.get_submodule(owner), leaf)
    return found


def fitted(model: nn.Module, regions: list[Region], place: Place) -> dict[str, Cut]:
    """The cuts in the model's own sizes. Raises UserError where one does not fit."""
    cuts: dict[str, Cut] = {}
    for region in regions:
        for name, share in region.shares.items():
            if share.cut is None:
                continue
            size = tensor_of(model, name).shape[share.cut.dim]
            try:
                cut = share.cut.scaled(size) if size != share.cut.size else share.cut
                list(cut.ranges(place.rank, place.size))
            except Misfit as misfit:
                raise UserError(
                    f"{name}: dim {share.cut.dim} of size {size} cannot be cut over {place.size} ranks ({misfit}); "
                    "use a number of ranks that divides it"
                ) from misfit
            cuts[name] = cut
    return cuts


def layers_of(model: nn.Module, regions: Iterable[Region]) -> list[str]:
    """The names of the lists of layers that regions lie in, outermost."""
    inner = list(regions)
    return [n for n in outermost_lists(model) if any(region.exits[0].startswith(f"{n}.") for region in inner)]


def outermost_lists(model: nn.Module) -> list[str]:
    """The names of lists of modules that lie in no other: the layers, whatever they are called."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
