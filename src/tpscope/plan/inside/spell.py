"""A plan in the words of engines that have one style a module: the nearest rules that are right, and what they cost.

Those engines reduce and gather at every module's border and know no segments, no divided numbers and no edges. For each
region the dearest-last candidates are translated back into regions and proven; the first that is proven is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from tpscope.language.sharding import EdgeKind, Region, RegionKind, Sharding, Share, Side
from tpscope.plan.inside.prove import Outcome
from tpscope.plan.inside.translate import translate
from tpscope.plan.result import Kind, Spelled, Spelling

_SUMS = ("transformers", "nemo")
_BARE = ("transformers",)


class Inexpressible(ValueError):
    """Something that a format has no words for."""


@dataclass(frozen=True)
class _Region:
    """A region by the modules that own its tensors: shares by the last part of their names."""

    region: Region
    owners: Mapping[str, dict[str, Share]]
    classes: Mapping[str, str]
    sizes: Mapping[str, tuple[int, ...]]
    form: str


def spell(
    model: nn.Module, plan: Sharding, form: str, classes: Mapping[str, str], proof: Callable[[Sharding], Outcome]
) -> Spelling:
    """The rules of a plan in a format, what is dearer than in the plan, and what is refused, by region."""
    found = Spelling()
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    for region in plan.regions:
        exit_ = region.exits[0]
        if region.kind is not RegionKind.SUM:
            if classes.get(exit_) in ("Linear", "Embedding"):
                kind = Kind.LOOKUP if region.kind is RegionKind.LOOKUP else Kind.GATHERED
                found.rules.append(Spelled(exit_, kind, region.kind.value))
            else:
                found.refused[exit_] = f"{classes.get(exit_)} is neither Linear nor Embedding"
            continue
        reason = ""
        for rules, cost, why in _candidates(_grouped(region, classes, sizes, form)):
            if why:
                reason = reason or why
                continue
            again = translate(model, rules, plan.tp)
            outcome = proof(again.plan) if again.plan.regions and not again.problems else None
            if outcome is not None and outcome.equal:
                found.rules += rules
                if cost:
                    found.dearer[exit_] = f"{reason}; {cost}" if reason else cost
                break
            said = "" if outcome is None else outcome.error or "its gradients are wrong"
            said = said or (again.problems[0].why if again.problems else "nothing is cut")
            reason = reason or f"one style a module does not run it: {said}"
        else:
            found.refused[exit_] = reason
    return found


def _grouped(region: Region, classes: Mapping[str, str], sizes: Mapping[str, tuple[int, ...]], form: str) -> _Region:
    from tpscope.language.plan import wildcard

    owners: dict[str, dict[str, Share]] = {}
    for name, share in region.shares.items():
        owner, _, leaf = name.rpartition(".")
        owners.setdefault(owner, {})[leaf] = share
    wild = {wildcard(name): size for name, size in sizes.items()} | dict(sizes)
    return _Region(region, owners, classes, wild, form)


def _candidates(group: _Region) -> Iterator[tuple[list[Spelled], str, str]]:
    """Rules, what they cost beyond the plan, and, instead of rules, why there are none."""
    crossed = {(edge.side, edge.kind) for edge in group.region.edges}
    if crossed and crossed <= {(Side.OUTPUT, EdgeKind.GATHER), (Side.INPUT, EdgeKind.SPLIT)}:
        # The plan itself has these edges, at the modules that the styles gather and split at.
        yield _gathered(group)[0], "", ""
    for sums in (True, False):
        try:
            yield _direct(group, sums), "", ""
        except Inexpressible as reason:
            yield [], "", str(reason)
    try:
        yield _gathered(group)
    except Inexpressible as reason:
        yield [], "", str(reason)


def _direct(group: _Region, sums: bool) -> list[Spelled]:
    """The plan's own cuts. `sums`: what is whole between cut modules has its gradients added, else nothing has."""
    if group.region.settings:
        name, by = next(iter(group.region.settings.items()))
        raise Inexpressible(f"{name} has to be divided by {by} to run on a slice, which this format cannot say")
    if group.region.edges:
        raise Inexpressible(f"{group.region.edges[0].module} needs its input gathered and its output split")
    rules: list[Spelled] = []
    for owner, shares in group.owners.items():
        if group.classes.get(owner) == "Linear":
            rules += _linear(group, owner, shares)
        elif any(share.cut for share in shares.values()):
            rules += _bare(group, owner, shares)
        elif sums and any(share.summed for share in shares.values()):
            if group.form not in _SUMS:
                raise Inexpressible(f"the gradient of {owner}.{next(iter(shares))} has to be summed over the ranks, "
                                    "and no style does that")  # fmt: skip
            rules.append(Spelled(owner, Kind.SUM, ""))
    return rules


def _linear(group: _Region, owner: str, shares: Mapping[str, Share]) -> list[Spelled]:
    weight = shares.get("weight", Share())
    if weight.cut is None:
        return []
    if weight.cut.overlaps:
        raise Inexpressible(f"several ranks hold the same slices of {owner}.weight")
    lengths = [segment.length for segment in weight.cut.segments]
    if group.form in _BARE and len(lengths) == 2 and len(set(lengths)) == 1 and weight.cut.dim == 0:
        return [Spelled(owner, Kind.PACKED, "")]
    if len(lengths) > 1:
        shown = ", ".join(map(str, lengths))
        raise Inexpressible(f"{owner}.weight is fused: its rows fall into segments of {shown}, each cut on its own")
    return [Spelled(owner, Kind.COLUMN if weight.cut.dim == 0 else Kind.ROW, "")]


def _bare(group: _Region, owner: str, shares: Mapping[str, Share]) -> list[Spelled]:
    """Weights that are no Linear's: fused experts, attention sinks. Only transformers has words for them."""
    kind = group.classes.get(owner, "")
    if group.form not in _BARE:
        raise Inexpressible(f"{owner} is a {kind}; the styles that cut a weight are for Linear")
    rules: list[Spelled] = []
    cut = {leaf: share.cut for leaf, share in shares.items() if share.cut is not None}
    for leaf, share in shares.items():
        if share.once:
            raise Inexpressible(
                f"{owner}.{leaf} is to count once, and the style of its module adds it up on every rank"
            )
    for leaf, piece in cut.items():
        name = f"{owner}.{leaf}"
        axes = len(group.sizes.get(name, ()))
        if leaf == "weight":
            raise Inexpressible(f"{owner} is a {kind}; the styles that cut a weight are for Linear")
        lengths = {segment.length for segment in piece.segments}
        packed = len(piece.segments) == 2 and len(lengths) == 1
        if piece.overlaps or (len(piece.segments) > 1 and not packed):
            raise Inexpressible(f"{name} is fused in a way that no style has")
        if piece.dim == max(axes - 2, 0):
            rules.append(Spelled(name, Kind.PACKED if packed else Kind.COLUMN, ""))
        elif piece.dim == axes - 1:
            rules.append(Spelled(name, Kind.PACKED_ROW if packed else Kind.ROW, ""))
        else:
            raise Inexpressible(f"{name} is cut along dim {piece.dim}, which no style does")
    many = any(len(group.sizes.get(f"{owner}.{leaf}", ())) > 2 for leaf in cut)
    return [*rules, Spelled(owner, Kind.EXPERTS if many else Kind.WHOLE, "")]


def _gathered(group: _Region) -> tuple[list[Spelled], str, str]:
    """Weights cut and activations whole: every column's output is gathered and every row's input split."""
    rules: list[Spelled] = []
    for owner, shares in group.owners.items():
        cut = shares["weight"].cut if "weight" in shares else None
        if group.classes.get(owner) == "Linear" and cut is not None:
            rules.append(Spelled(owner, Kind.GATHERED if cut.dim == 0 else Kind.SPLIT, ""))
        elif any(share.cut for share in shares.values()):
            raise Inexpressible(f"{owner} is a {group.classes.get(owner)}; the styles that cut a weight are for Linear")
    columns = sum(rule.kind is Kind.GATHERED for rule in rules)
    cost = f"so activations are gathered behind {columns} modules a layer, and every rank computes all between them"
    return rules, cost, ""
