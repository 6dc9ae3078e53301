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
    peaks = [_peak(point) for point in highest.values()]
    if not peaks:
        return MemoryCost()
    top = max(peaks, key=lambda peak: peak.bytes)
    return MemoryCost(top.bytes, top.phase, dict(top.by_category), peaks, {k: v for k, v in memory.after.items() if k})


def _size(point: Point) -> int:
    return sum(item.bytes for item in point.held)


def _peak(point: Point) -> Peak:
    by: Counter[str] = Counter()
    for item in point.held:
        by[item.category] += item.bytes
    # What the step itself makes is told by module; weights and what goes with them are told by their sum.
    made = sorted((item for item in point.held if item.category not in _BEFORE), key=lambda item: -item.bytes)
    largest = [Share(item.category, item.module, item.bytes) for item in made[:_LARGEST]]
    return Peak(point.phase, _size(point), point.module, point.layer, point.made, dict(by.most_common()), largest)
