"""Memory of one rank: the highest point of each phase and what is alive there."""

from __future__ import annotations

from collections import Counter

from tpscope.language.measured.price import Memory, Point
from tpscope.price.result import MemoryCost, Peak, Share

_LARGEST = 8
_BEFORE = ("weights", "gradients", "optimizer")


def memory_cost(memory: Memory) -> MemoryCost:
    """The peaks of a step."""
    highest: dict[str, Point] = {}
    for point in memory.points:
        if point.phase not in highest or _size(point) > _size(highest[point.phase]):
            highest[point.phase] = point
    peaks = [_peak(point, memory.names) for point in highest.values()]
    if not peaks:
        return MemoryCost()
    top = max(peaks, key=lambda peak: peak.bytes)
    return MemoryCost(top.bytes, top.phase, dict(top.by_category), peaks, {k: v for k, v in memory.after.items() if k})


def _size(point: Point) -> int:
    return sum(size for _, size in point.held)


def _peak(point: Point, names: list[tuple[str, str]]) -> Peak:
    by: Counter[str] = Counter()
    shares = [Share(*names[what], size) for what, size in point.held]
    for share in shares:
        by[share.category] += share.bytes
    # What the step itself makes is told by module; weights and what goes with them are told by their sum.
    made = sorted((share for share in shares if share.category not in _BEFORE), key=lambda share: -share.bytes)
    by_category = dict(by.most_common())
    return Peak(point.phase, _size(point), point.module, point.layer, point.made, by_category, made[:_LARGEST])
