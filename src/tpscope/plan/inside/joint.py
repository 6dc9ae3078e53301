"""Two regions of a layer whose results are only ever added: one sum over the ranks does for both (GPT-J, Cohere)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from tpscope.engine.leaves import positions_changed
from tpscope.engine.regions import instances
from tpscope.language.plan import wildcard
from tpscope.language.sharding import Region, RegionKind, Sharding
from tpscope.plan.inside.layers import structure, tops
from tpscope.plan.inside.noise import MARGIN, Noise
from tpscope.plan.inside.subject import Call, Calls, fresh, stirred_call

_SEED = 5


def joined(model: nn.Module, calls: Calls, plan: Sharding) -> Sharding:
    """The plan in which a region carries the one that is called before it, where they are one sum in every layer."""
    inner = [region for region in instances(model, plan) if region.kind is RegionKind.SUM]
    carried: dict[str, set[str]] = {}
    known: dict[Any, bool] = {}
    for top in tops(model):
        before: Region | None = None
        for region in _in_order(calls, top, inner):
            one = before.exits[0] if before and _one_sum(model, calls, top, before, region, known) else ""
            carried.setdefault(wildcard(region.exits[0]), set()).add(wildcard(one))
            before = None if one else region
    regions = []
    for region in plan.regions:
        found = carried.get(wildcard(region.exits[0]), {""})
        regions.append(replace(region, carries=next(iter(found)) if len(found) == 1 else ""))
    return replace(plan, regions=tuple(regions))


def _in_order(calls: Calls, top: str, regions: list[Region]) -> list[Region]:
    """The regions of a layer in the order of their calls; those that are not called once are left out."""
    mine = [(calls.single(region.exits[0]), region) for region in regions if region.exits[0].startswith(f"{top}.")]
    return [region for _, region in sorted(((c.order, r) for c, r in mine if c is not None), key=lambda pair: pair[0])]


def _one_sum(
    model: nn.Module, calls: Calls, top: str, one: Region, other: Region, known: dict[Any, bool]
) -> bool:  # fmt: skip
    """`one_sum` in one layer, asked once of like layers."""
    root, call = model.get_submodule(top), calls.single(top)
    names = [region.exits[0].removeprefix(f"{top}.") for region in (one, other)]
    key = (structure(root), *names)
    if key not in known:
        asked = call is not None and one.outputs == other.outputs and bool(one.outputs)
        known[key] = asked and one_sum(root, stirred_call(call), names[0], names[1], one.outputs)  # type: ignore[arg-type]
    return known[key]


def one_sum(root: nn.Module, call: Call, one: str, other: str, outputs: tuple[int, ...]) -> bool:
    """True if `root` gives the same when `one` gives zeros and `other`, called later, the sum of both results.

    `one` and `other` are modules by name under root; `outputs` the positions of the results. Without the sum the output
    has to be another one, or the results do not matter at all.
    """
    results: list[torch.Tensor] = []

    def run(moved: bool, lost: bool = False) -> list[torch.Tensor]:
        results.clear()

        def first(item: torch.Tensor) -> torch.Tensor:
            results.append(item)
            return torch.zeros_like(item) if moved else item

        def second(item: torch.Tensor) -> torch.Tensor:
            if not moved or lost or not results or results[0].shape != item.shape:
                return item
            return item + results.pop(0)

        changes = ((one, first), (other, second))
        hooks = [
            root.get_submodule(name).register_forward_hook(
                lambda _, args, output, change=change: positions_changed(output, outputs, change)
            )
            for name, change in changes
        ]
        try:
            with torch.no_grad():
                found: Any = root(*fresh(call.args), **fresh(call.kwargs))
        finally:
            for hook in hooks:
                hook.remove()
        return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]

    plain = run(moved=False)
    with Noise(_SEED):
        floor = _apart(plain, run(moved=False))
    return _apart(plain, run(moved=True)) <= MARGIN * floor < _apart(plain, run(moved=True, lost=True))


def _apart(ones: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """The largest difference; infinite where shapes differ."""
    if [one.shape for one in ones] != [other.shape for other in others]:
        return float("inf")
    return max((float((one - other).abs().max()) for one, other in zip(ones, others, strict=True)), default=0.0)
