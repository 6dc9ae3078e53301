"""Plans and trainable parameters of both sides, laid beside each other from compare's columns."""

from __future__ import annotations

from math import prod

from tpscope.compare.differences import find, joined, short, some
from tpscope.compare.join import canonical, spelt
from tpscope.language.answer import FrameworkAnswer, ParameterRow
from tpscope.language.verdict import Severity, Status
from tpscope.migrate.answers import Answers
from tpscope.migrate.result import Check, Standing


def compared(answers: list[Answers]) -> list[Check]:
    """What trains, where each parameter lies, and what compare finds doubtful in either column."""
    columns = [one.column for one in answers]
    refusals = [_refusal(one, one is answers[-1]) for one in answers if one.refused is not None]
    missing = [_why(one) for one in answers if one.column is None or one.column.status is not Status.OK]
    if missing:
        words = "; ".join(missing)
        return [*refusals, *(Check(name, Standing.UNCHECKED, words) for name in ("trainable parameters", "plan"))]
    left, right = (column for column in columns if column is not None)
    return [*refusals, _trainable(left, right), _plan(left, right), *_doubts(left, right)]


def _why(one: Answers) -> str:
    identifier = one.side.target.id
    if one.column is None or one.column.error is None:
        return f"{identifier}: its file gives no layout"
    error = one.column.error
    place = f" ({error.where.path}:{error.where.line})" if error.where else ""
    return f"{identifier} {one.column.status.value}: {error.message}{place}"


def _refusal(one: Answers, last: bool) -> Check:
    """What a framework raises on the layout of its file. Below, its tp ranks alone are looked at."""
    column, layout = one.refused, one.layout
    assert column is not None
    assert column.error is not None
    assert layout is not None
    sizes = " x ".join(f"{axis} {size}" for axis, size in layout.sizes.items() if size > 1)
    name = f"{one.side.target.id} on {sizes}"
    bad = column.status in (Status.REFUSED, Status.CRASHED)
    standing = Standing.UNCHECKED if not bad else Standing.FAILED if last else Standing.TOLD
    place = [column.error.where] if column.error.where else []
    return Check(name, standing, f"{column.status.value}: {column.error.message}", evidence=place)


def _trainable(left: FrameworkAnswer, right: FrameworkAnswer) -> Check:
    """Which parameters train, by joined name: the same ones, of the same shapes?"""
    ours, theirs = (_shapes(column) for column in (left, right))
    numbers = [sum(prod(shape) for shape in shapes.values()) for shapes in (ours, theirs)]
    before, after = (
        f"{len(shapes)} tensors of {number:,} numbers" for shapes, number in zip((ours, theirs), numbers, strict=True)
    )
    if ours == theirs:
        return Check("trainable parameters", Standing.OK, "the same names and shapes", before, after)
    words = ["as many numbers"] if numbers[0] == numbers[1] else []
    for column, mine, others in ((left, ours, theirs), (right, theirs, ours)):
        if alone := _kinds([name for name in mine if name not in others]):
            words.append(f"{column.id} alone has {alone}")
    if other := _kinds([name for name in ours if name in theirs and ours[name] != theirs[name]]):
        words.append(f"of other shapes: {other}")
    return Check("trainable parameters", Standing.TOLD, "; ".join(words), before, after)


def _shapes(column: FrameworkAnswer) -> dict[str, tuple[int, ...]]:
    """Shape by name, layers spelt out: their number counts."""
    return {spelt(row.name): tuple(row.shape) for row in column.parameters if row.trainable}


def _kinds(names: list[str]) -> str:
    return some(list(dict.fromkeys(short(canonical(name)) for name in names))) if names else ""


def _plan(left: FrameworkAnswer, right: FrameworkAnswer) -> Check:
    """Where each kind of parameter lies over tp."""
    ours, theirs = joined(left), joined(right)
    names = [name for name in ours if name in theirs]
    unlike: dict[tuple[str, str], list[str]] = {}
    for name in names:
        pair = (_placed(ours[name]), _placed(theirs[name]))
        if pair[0] != pair[1]:
            unlike.setdefault(pair, []).append(short(name))
    same = len(names) - sum(map(len, unlike.values()))
    said = f"the same placement of {same} of {len(names)} kinds of parameters"
    words = [f"{some(group)} ({one} | {two})" for (one, two), group in unlike.items()]
    said += f"; differs: {'; '.join(words)}" if unlike else ""
    for column, mine, others in ((left, ours, theirs), (right, theirs, ours)):
        if alone := _kinds([name for name in mine if name not in others]):
            said += f"; only in {column.id}: {alone}"
    before, after = (f"{column.selection.level} plan" for column in (left, right))
    return Check("plan", Standing.TOLD if unlike else Standing.OK, said, before, after)


def _placed(rows: list[ParameterRow]) -> str:
    return " / ".join(sorted({row.placement for row in rows}))


def _doubts(left: FrameworkAnswer, right: FrameworkAnswer) -> list[Check]:
    """compare's own remarks that concern what is trained, worst first."""
    loud = (Severity.WRONG, Severity.BLOCKS, Severity.IGNORED)
    return [
        Check(item.subject, Standing.TOLD, item.meaning)
        for item in find([left, right])
        if item.severity in loud and item.subject != "status"
    ]
