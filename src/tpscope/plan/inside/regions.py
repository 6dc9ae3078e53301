"""Regions as they stand in a plan: the embedding's and the head's tables, and like layers said once, by pattern."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tpscope.language.plan import wildcard
from tpscope.language.sharding import Cut, Region, RegionKind, Segment, Share
from tpscope.plan.inside.subject import fresh, replica


def is_lookup(module: nn.Module, key: str, args: tuple[Any, ...], kwargs: dict[str, Any], ids: torch.Tensor) -> bool:
    """True if one row of a table moves the output exactly where its number is looked up."""
    other = replica(module)
    row = int(ids.flatten()[0])
    with torch.no_grad():
        before = other(*fresh(args), **fresh(kwargs))
        other.get_parameter(key).select(0, row).add_(1.0)
        after = other(*fresh(args), **fresh(kwargs))
    if not isinstance(before, torch.Tensor) or before.shape[: ids.dim()] != ids.shape:
        return False
    moved = (after - before).flatten(ids.dim()).abs().amax(-1) > 0
    return torch.equal(moved, ids == row)


def table_region(kind: RegionKind, name: str, dims: dict[str, int], module: nn.Module, entries: str) -> Region:
    """The region of a table: a weight cut along its entries, which need not divide by the ranks."""
    size = next(module.get_parameter(key).shape[dim] for key, dim in dims.items())
    shares = {}
    for key, parameter in module.named_parameters(recurse=False):
        dim = dims.get(key, 0 if parameter.shape == (size,) else None)
        if dim is not None:
            why = f"one of its {size} slices moves one of the {entries} only"
            shares[f"{name}.{key}"] = Share(Cut(dim, (Segment(size),), ragged=True), why=why)
    return Region(kind, (name,), (name,), shares, {}, (0,), size, f"its {size} slices are independent {entries}")


def merged(regions: list[Region]) -> tuple[Region, ...]:
    """Regions of different layers as one, by pattern, where they say the same; else by their own names."""
    by_pattern: dict[Any, list[Region]] = {}
    for region in regions:
        by_pattern.setdefault((wildcard(region.exits[0]), frozenset(map(wildcard, region.shares))), []).append(region)
    found: list[Region] = []
    for group in by_pattern.values():
        general = [_general(region) for region in group]
        if all(item == general[0] for item in general):
            found.append(general[0])
        else:
            found += group
    return tuple(found)


def _general(region: Region) -> Region:
    return replace(
        region,
        entries=tuple(map(wildcard, region.entries)),
        exits=tuple(map(wildcard, region.exits)),
        shares={wildcard(name): share for name, share in region.shares.items()},
        settings={wildcard(name): divisor for name, divisor in region.settings.items()},
        edges=tuple(replace(edge, module=wildcard(edge.module)) for edge in region.edges),
        carries=wildcard(region.carries),
    )
