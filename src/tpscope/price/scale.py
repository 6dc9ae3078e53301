"""From traces of a few layers to the whole model: everything that a step does is a linear function of its layers.

Two numbers of periods give the line; a third one, traced too, must lie on it exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from tpscope.language.measured.price import Collective, Memory, Moved, Operation, Point, StepTrace

COUNTS = (2, 3, 4)
_Item = TypeVar("_Item", Operation, Collective)
_Key = tuple[Any, ...]


def scaled(traces: list[StepTrace], counts: tuple[int, ...], periods: int, layers: int) -> StepTrace:
    """The trace at `periods`, from those at the first two of `counts`."""
    few, more = traces[0], traces[1]

    def at(before: float, after: float) -> int:
        slope = (after - before) / (counts[1] - counts[0])
        return round(before + slope * (periods - counts[0]))

    result = replace(more, layers=layers)
    result.operations = _counted(few.operations, more.operations, _operation, at)
    result.collectives = _counted(few.collectives, more.collectives, _collective, at)
    result.moved = _moved(few.moved, more.moved, at)
    result.memory = _memory(few.memory, more.memory, at)
    for name in ("dispatches", "views", "calls", "asked"):
        before, after = getattr(few, name), getattr(more, name)
        setattr(result, name, {key: at(before.get(key, 0), after.get(key, 0)) for key in {**before, **after}})
    return result


def misses(predicted: StepTrace, traced: StepTrace) -> list[str]:
    """What of a traced step is not as it was predicted from fewer layers."""
    found = []
    if _table(predicted.operations, _operation) != _table(traced.operations, _operation):
        found.append("kernels")
    if _table(predicted.collectives, _collective) != _table(traced.collectives, _collective):
        found.append("collectives")
    if _heights(predicted.memory) != _heights(traced.memory):
        found.append("memory")
    for name in ("dispatches", "views", "calls"):
        if getattr(predicted, name) != getattr(traced, name):
            found.append(name)
    return found


def _operation(item: Operation) -> _Key:
    shapes = tuple(map(tuple, item.shapes))
    return (item.phase, item.module, item.name, shapes, item.dtype, item.flops, item.read, item.written, item.kernel)


def _collective(item: Collective) -> _Key:
    return (item.phase, item.kind, item.axis, item.module, tuple(item.shape), item.dtype, item.bytes, item.ranks)


def _table(items: Iterable[_Item], key: Callable[[Any], _Key]) -> dict[_Key, int]:
    return {key(item): item.count for item in items if item.count}


def _counted(
    few: list[_Item], more: list[_Item], key: Callable[[Any], _Key], at: Callable[[float, float], int]
) -> list[_Item]:
    before = _table(few, key)
    found = [replace(item, count=at(before.pop(key(item), 0), item.count)) for item in more]
    # What is gone with one layer more would go below zero: `misses` tells.
    found += [replace(item, count=at(item.count, 0)) for item in few if key(item) in before]
    return [item for item in found if item.count]


def _moved(few: list[Moved], more: list[Moved], at: Callable[[float, float], int]) -> list[Moved]:
    before = {(item.phase, item.kind): item for item in few}
    found = []
    for item in more:
        old = before.get((item.phase, item.kind), Moved(item.phase, item.kind, 0, 0))
        issued, distinct = at(old.issued, item.issued), at(old.distinct, item.distinct)
        found.append(Moved(item.phase, item.kind, issued, distinct, item.modules))
    return found


def _memory(few: Memory, more: Memory, at: Callable[[float, float], int]) -> Memory:
    before = {(point.phase, point.layer, point.module, point.made): point for point in few.points}
    names = list(dict.fromkeys([*more.names, *few.names]))
    number = {name: index for index, name in enumerate(names)}
    points = []
    for point in more.points:
        old = before.get((point.phase, point.layer, point.module, point.made))
        if old is None:
            continue
        sizes = {number[few.names[what]]: size for what, size in old.held}
        held = [(what, at(sizes.pop(what, 0), size)) for what, size in point.held]
        held += [(what, at(size, 0)) for what, size in sizes.items()]
        points.append(Point(point.phase, point.layer, point.module, point.made, [item for item in held if item[1] > 0]))
    return Memory(names, points, {name: at(few.after.get(name, 0), size) for name, size in more.after.items()})


def _heights(memory: Memory) -> dict[str, int]:
    """The highest of each phase: what the answer is made of."""
    found: dict[str, int] = {}
    for point in memory.points:
        found[point.phase] = max(found.get(point.phase, 0), sum(size for _, size in point.held))
    return {**found, **{f"after {name}": size for name, size in memory.after.items() if name}}
