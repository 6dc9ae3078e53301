"""All ranks' records of one micro-batch against the whole model's: what layout every module border has."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tpscope.frameworks.inside.proof.explain import UNKNOWN, Layout, explain
from tpscope.frameworks.inside.proof.record import Records


@dataclass
class Border:
    """One module: layouts of what goes in and comes out, and of the gradients of both, and what it is.

    `lost`: its output has a gradient in the whole model and none on any rank. `waits`: that output is the result of a
    collective that nobody has waited for yet. `into`: the module that took it and sent nothing back.
    """

    module: str
    kind: str
    came: Layout | None
    gave: Layout | None
    came_gradient: Layout | None
    gave_gradient: Layout | None
    bias_times: float | None = None
    lost: bool = False
    waits: bool = False
    into: str = ""


def borders(ranks: list[Records], whole: Records, biases: dict[str, torch.Tensor]) -> list[Border]:
    """Every module in the order in which the whole model finished them."""
    found = []
    for name in [name for name, side in whole.seen if side == "out"]:
        gave = _layout(ranks, whole, (name, "out"), gradient=False)
        border = Border(
            name, ranks[0].classes.get(name, whole.classes.get(name, "")),
            _layout(ranks, whole, (name, "in"), gradient=False), gave,
            _layout(ranks, whole, (name, "in"), gradient=True), _layout(ranks, whole, (name, "out"), gradient=True),
        )  # fmt: skip
        if gave is not None and not gave.right and name in biases:
            border.bias_times = _bias(ranks, whole, name, biases[name])
        if _lost(ranks, whole, (name, "out")):
            border.lost, border.into = True, _taker(ranks, whole, name)
            border.waits = all(rank.seen[(name, "out")].waits for rank in ranks)
        found.append(border)
    return found


def backward_order(whole: Records, found: list[Border]) -> list[Border]:
    """The same borders in the order in which the whole model's backward reached their inputs."""
    by_name = {border.module: border for border in found}
    return [by_name[name] for name, side in whole.backward if side == "in" and name in by_name]


def _lost(ranks: list[Records], whole: Records, key: tuple[str, str]) -> bool:
    """True where the whole model's tensor has a gradient, and every rank saw the tensor and no gradient of it, or one
    of zeros: what autograd makes of none for a function that wants a tensor."""
    wanted = whole.seen[key].gradient
    if wanted is None or not bool(wanted.any()):
        return False
    seen = [rank.seen.get(key) for rank in ranks]
    return all(one is not None and (one.gradient is None or not bool(one.gradient.any())) for one in seen)


def _taker(ranks: list[Records], whole: Records, name: str) -> str:
    """The first module after `name` whose input lost its gradient; "" if none."""
    keys = list(whole.seen)
    later = keys[keys.index((name, "out")) + 1 :]
    return next((module for module, side in later if side == "in" and _lost(ranks, whole, (module, side))), "")


def _layout(ranks: list[Records], whole: Records, key: tuple[str, str], gradient: bool) -> Layout | None:
    """None where the whole model has nothing here, or no rank has."""
    wanted = whole.seen.get(key)
    if wanted is None:
        return None
    seen = [rank.seen.get(key) for rank in ranks]
    if all(one is None for one in seen):
        return None
    value = wanted.gradient if gradient else wanted.value
    if value is None:
        return None
    mine = [None if one is None else one.gradient if gradient else one.value for one in seen]
    if all(one is None for one in mine):
        return None if gradient else UNKNOWN
    return explain(mine, value)


def _bias(ranks: list[Records], whole: Records, name: str, bias: torch.Tensor) -> float | None:
    """How often the bias is in what the module gave beyond the once that it should be; None if that is not it."""
    wanted = whole.seen[(name, "out")].value
    times = set()
    for rank in ranks:
        one = rank.seen.get((name, "out"))
        if one is None or one.value.shape != wanted.shape or bias.shape[-1:] != wanted.shape[-1:]:
            return None
        difference = (one.value - wanted).to(torch.float64)
        times.add(round(float((difference * bias).sum() / (bias.expand_as(wanted) ** 2).sum()), 3))
        if float((difference - float(next(iter(times))) * bias).norm()) > 1e-6 * float(wanted.norm()):
            return None
    return times.pop() if len(times) == 1 and 0.0 not in times else None
