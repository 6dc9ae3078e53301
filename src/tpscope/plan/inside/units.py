"""From touches to units: the finest groups of slices that a sum falls into, and how they go to the ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tpscope.language.sharding import Cut, Segment, Share
from tpscope.plan.inside.pieces import MOST_LEVELS, Slice, joined, pieces
from tpscope.plan.inside.touch import Touches

# Dimension by tensor, cut by tensor, number of independent groups.
_Family = tuple[dict[str, int], dict[str, Cut], int]


class Stuck(Exception):
    """No way to give the ranks slices of their own; says what stands in the way."""


@dataclass(frozen=True)
class Division:
    """How a region's tensors go to the ranks, before anybody tried it. `units` is the number of independent groups."""

    dims: dict[str, int]
    shares: dict[str, Share]
    units: int

    @property
    def elements(self) -> int:
        """Only for ordering: how many tensors are cut."""
        return sum(share.cut is not None for share in self.shares.values())


def divisions(touches: Touches, ranks: int) -> Iterator[Division | Stuck]:
    """Every division that the touches allow, most weights cut first; where one does not come about, why."""
    seen: set[tuple[tuple[str, int], ...]] = set()
    seeds = sorted({name for name, _ in touches.rows if name in touches.parameters}, key=lambda n: -touches.numbers[n])
    chosen: list[dict[str, int]] = []
    for seed in seeds:
        for dim in sorted((d for n, d in touches.rows if n == seed), reverse=True):
            dims = _spread(touches, seed, dim)
            key = tuple(sorted(dims.items()))
            if len(dims) > 1 and key not in seen:
                seen.add(key)
                chosen.append(dims)
    chosen.sort(key=lambda dims: -sum(touches.numbers[name] for name in dims))
    for dims in chosen:
        try:
            yield _divide_all(touches, dims, ranks)
        except Stuck as stuck:
            yield stuck


def _divide_all(touches: Touches, dims: dict[str, int], ranks: int) -> Division:
    """The division of one family of tensors and of those beside it that it does not act on (shared experts)."""
    dims, cuts, units = _divide(touches, dims, ranks)
    while True:
        beside = [
            name
            for name, _ in touches.rows
            if name in touches.parameters and name not in dims and not _acts_on_cut(touches, name, cuts)
        ]
        if not beside:
            return Division(dims, _shares(touches, dims, cuts, units), units)
        seed = max(beside, key=lambda name: touches.numbers[name])
        found = [_spread(touches, seed, dim) for name, dim in touches.rows if name == seed]
        more, more_cuts, more_units = _divide(touches, max(found, key=len), ranks)
        if set(more) & set(dims):
            raise Stuck(f"{seed} acts on the cut slices in no even way")
        dims, cuts, units = {**dims, **more}, {**cuts, **more_cuts}, units + more_units


def _spread(touches: Touches, seed: str, dim: int) -> dict[str, int]:
    """For every tensor the dimension along which it falls apart together with the seed's."""
    dims = {seed: dim}
    waiting = [seed]
    while waiting:
        name = waiting.pop()
        for other, shape in touches.sizes.items():
            if other in dims or other in touches.idle:
                continue
            counts = {axis: pieces(touches, name, dims[name], other, axis) for axis in range(len(shape))}
            best = max(counts, key=lambda axis: counts[axis], default=0)
            if counts and counts[best] > 1:
                dims[other] = best
                waiting.append(other)
    return dims


@dataclass(frozen=True)
class _Near:
    """Which slices act on each other. `slices`: all that a division may cut; `at`: those of them that were changed;
    `hits` [changed, slices]: True where two act on each other and where a slice is itself.

    Two slices of which none was changed are not known to act on each other. Pairs as objects would be tens of millions.
    """

    slices: list[Slice]
    at: torch.Tensor
    hits: torch.Tensor

    @classmethod
    def read(cls, touches: Touches, dims: dict[str, int]) -> _Near:
        """From the rows of a region, for the dimensions that fall apart together."""
        slices = [(name, index) for name, dim in dims.items() for index in range(touches.sizes[name][dim])]
        number = {item: place for place, item in enumerate(slices)}
        rows = [row for name, dim in dims.items() for row in touches.rows.get((name, dim), ())]
        at = torch.tensor([number[row.name, row.index] for row in rows], dtype=torch.long)
        hits = torch.zeros(len(rows), len(slices), dtype=torch.bool)
        for place, row in enumerate(rows):
            for name, dim in dims.items():
                if (hit := row.hits.get(name, {}).get(dim)) is not None:
                    start = number[name, 0]
                    hits[place, start : start + len(hit)] = hit
        hits[:, at] |= hits[:, at].T.clone()
        hits[torch.arange(len(rows)), at] = True
        return cls(slices, at, hits)

    def degrees(self) -> dict[Slice, int]:
        """With how many others a slice acts, for those that act with any."""
        counts = self.hits.sum(0)
        counts[self.at] = self.hits.sum(1) - 1
        return {item: count for item, count in zip(self.slices, counts.tolist(), strict=True) if count}


def _divide(touches: Touches, dims: dict[str, int], ranks: int) -> _Family:
    near = _Near.read(touches, dims)
    degree = near.degrees()
    linked = set(degree)
    for name, dim in dims.items():
        for index, changed in touches.same.get((name, dim), {}).items():
            degree[name, index] = max(degree.get((name, index), 0), degree.get((name, changed), 0))
    degrees = sorted(set(degree.values()), reverse=True)
    first: Stuck | None = None
    # What most others depend on is shared first: the KV heads of grouped queries where ranks are more than KV heads.
    for least in (float("inf"), *degrees[:MOST_LEVELS]):
        shared = {item for item, number in degree.items() if number >= least}
        shared |= {(other, index) for name, index in shared for other in _beside(touches, dims, name)}
        try:
            return _assign(touches, dict(dims), near, linked - shared, shared, ranks)
        except Stuck as stuck:
            first = first or stuck
    assert first is not None
    raise first


def _beside(touches: Touches, dims: dict[str, int], name: str) -> list[str]:
    """Vectors of the same module that are as long as a matrix along its dimension: its biases go where its rows go."""
    if len(touches.sizes[name]) < 2:
        return []
    home, length = name.rpartition(".")[0], touches.sizes[name][dims[name]]
    return [
        other for other, size in touches.sizes.items()
        if other != name and other.rpartition(".")[0] == home and size == (length,)
    ]  # fmt: skip


def _assign(
    touches: Touches, dims: dict[str, int], near: _Near, linked: set[Slice], shared: set[Slice], ranks: int
) -> _Family:
    free = torch.tensor([item not in shared for item in near.slices])
    roots = joined(near.hits[free[near.at]] & free).tolist()
    members: dict[int, list[Slice]] = {}
    for item, root in zip(near.slices, roots, strict=True):
        if item in linked:
            members.setdefault(root, []).append(item)
    main = max(dims, key=lambda name: (sum((name, i) in linked for i in range(touches.sizes[name][dims[name]])),
                                       touches.numbers[name]))  # fmt: skip
    units = [group for group in members.values() if any(name == main for name, _ in group)]
    units.sort(key=lambda group: min(index for name, index in group if name == main))
    if len(units) < 2:
        raise Stuck(f"all slices of {main} depend on each other")
    if len(units) % ranks:
        raise Stuck(f"{len(units)} independent groups of slices do not divide by {ranks} ranks")
    rank = {item: number * ranks // len(units) for number, group in enumerate(units) for item in group}
    holders = {item: {found} for item, found in rank.items()}
    held = torch.tensor([rank.get(item, -1) for item in near.slices])
    for number in range(ranks):
        needed = near.hits[held[near.at] == number].any(0)
        needed[near.at] |= near.hits[:, held == number].any(1)
        for place in needed.nonzero().flatten().tolist():
            if near.slices[place] in shared:
                holders.setdefault(near.slices[place], set()).add(number)
    cuts = _cuts(touches, dims, holders, ranks)
    return dims, cuts, len(units)


def _cuts(touches: Touches, dims: dict[str, int], holders: dict[Slice, set[int]], ranks: int) -> dict[str, Cut]:
    held: dict[str, list[set[int] | None]] = {
        name: [holders.get((name, index)) for index in range(touches.sizes[name][dim])] for name, dim in dims.items()
    }
    # A vector beside a matrix of the same module and length is cut as that is (a key bias acts on nothing: softmax does
    # not see it).
    for name, shape in touches.sizes.items():
        known = held.get(name)
        if len(shape) != 1 or (known is not None and None not in known) or name not in touches.parameters:
            continue
        beside = [
            found
            for other, found in held.items()
            if other != name and other.rpartition(".")[0] == name.rpartition(".")[0] and len(found) == shape[0]
            if None not in found
            if _agree(known, found, name in touches.idle)
        ]
        if beside:
            held[name], dims[name] = beside[0], 0
    cuts: dict[str, Cut] = {}
    for name, found in held.items():
        if None in found:
            raise Stuck(f"{found.count(None)} of {len(found)} slices of {name} act on nothing in the region")
        cut = _cut(dims[name], [item or set() for item in found], ranks)
        if cut is None:
            raise Stuck(f"the slices of {name} that a rank needs do not follow in even runs")
        if any(segment.copies < ranks for segment in cut.segments):
            cuts[name] = cut
    return cuts


def _agree(known: list[set[int] | None] | None, found: list[set[int] | None], idle: bool) -> bool:
    """True where what is known of a vector's holders says nothing against those of the matrix beside it."""
    return idle if known is None else all(a in (None, b) for a, b in zip(known, found, strict=True))


def _cut(dim: int, holders: list[set[int]], ranks: int) -> Cut | None:
    """Runs of equal holders, read as segments that are each cut evenly over all ranks. None if they are no such."""
    runs: list[tuple[frozenset[int], int]] = []
    for item in map(frozenset, holders):
        if runs and runs[-1][0] == item:
            runs[-1] = (item, runs[-1][1] + 1)
        else:
            runs.append((item, 1))
    segments: list[Segment] = []
    while runs:
        copies, length = len(runs[0][0]), runs[0][1]
        if copies == 0 or ranks % copies:
            return None
        parts = ranks // copies
        # The last run of one segment may touch the first of the next where all ranks hold both.
        wanted = [(frozenset(range(part * copies, (part + 1) * copies)), length) for part in range(parts)]
        if runs[:parts] != wanted:
            return None
        segments.append(Segment(parts * length, copies))
        runs = runs[parts:]
    return Cut(dim, tuple(segments))


def _shares(touches: Touches, dims: dict[str, int], cuts: dict[str, Cut], units: int) -> dict[str, Share]:
    shares: dict[str, Share] = {}
    for name in touches.sizes:
        if name in cuts:
            why = f"{units} independent groups along dim {cuts[name].dim}"
            if cuts[name].overlaps:
                why += "; several ranks need the same slices, gradients are added"
            shares[name] = Share(cuts[name], summed=cuts[name].overlaps, why=why)
        elif name in touches.idle:
            continue
        elif _acts_on_cut(touches, name, cuts):
            shares[name] = Share(summed=True, why=f"acts on all {units} groups, a rank sees part of its gradient")
        elif others := [o for o in touches.global_.get(name, ()) if o != name and not _acts_on_cut(touches, o, cuts)]:
            raise Stuck(f"{name} and {others[0]} act on each other beside what is cut, and do not fall apart")
        else:
            shares[name] = Share(once=True, why="acts on no group: added to the result, one rank counts it")
    return {name: share for name, share in shares.items() if name in touches.parameters or share.cut or share.once}


def _acts_on_cut(touches: Touches, name: str, cuts: dict[str, Cut]) -> bool:
    forward = touches.global_.get(name, set()) & set(cuts)
    backward = any(name in touches.global_.get(cut, ()) for cut in cuts)
    return bool(forward) or backward
