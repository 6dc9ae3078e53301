"""Recorded plans as lines of text, and one plan beside another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from tpscope.language.answer import PlanRow
from tpscope.language.plan import wildcard
from tpscope.report.guide_rows import Planned
from tpscope.report.text import place

_LEAVES = (".weight", ".bias")


def rows(plan: Planned, shows: Sequence[str]) -> list[PlanRow]:
    """The rules of a plan that matched something and name a module that is to be shown, by pattern."""
    found = {
        row.pattern: row
        for row in plan.plan
        if row.matched and any(fnmatchcase(part, word) for part in row.pattern.split(".") for word in shows)
    }
    return list(found.values())


def lines(shown: Sequence[PlanRow]) -> list[str]:
    """The rows as aligned text."""
    return _aligned([(row.pattern, *_cells(row)) for row in shown])


def broken(kept: Sequence[PlanRow], places: Iterable[str], does: str) -> list[str]:
    """A diff: the kept rows, and those that the fault puts out of force, each with what is done instead."""
    by_pattern: dict[str, list[str]] = {}
    others: list[str] = []
    for name in places:
        module = wildcard(name)
        for leaf in _LEAVES:
            module = module.removesuffix(leaf)
        if any(row.pattern == module for row in kept):
            by_pattern.setdefault(module, []).append(name)
        else:
            others.append(name)
    found = []
    for row, text in zip(kept, lines(kept), strict=True):
        hit = by_pattern.get(row.pattern, [])
        found += [f"{'-' if hit else ' '} {text}", *(f"+ {name}: {does}" for name in hit)]
    return [*found, *(f"+ {name}: {does}" for name in others or ([] if by_pattern else ["the whole model"]))]


def beside(right: Planned | None, wrong: Planned, shows: Sequence[str]) -> tuple[str, list[str]]:
    """What tells two plans apart on the modules to be shown, in one sentence and as a diff. - is right, + is wrong."""
    if wrong.failed:
        return f"{wrong.failed}.", []
    bad = rows(wrong, shows)
    if right is None:
        return "this is its plan.", [f"  {text}" for text in lines(bad)]
    good = rows(right, shows)
    if right.failed:
        return f"{right.framework} has none: {right.failed}.", [f"  {text}" for text in lines(bad)]
    texts = dict(zip([*_keys(good, "-"), *_keys(bad, "+")], lines([*good, *bad]), strict=True))
    mine, other = ({row.pattern: row for row in found} for found in (good, bad))
    found = []
    for name in dict.fromkeys([*mine, *other]):
        if name in mine and name in other and _cells(mine[name]) == _cells(other[name]):
            found.append(f"  {texts[name, '-']}")
            continue
        found += [f"- {texts[name, '-']}"] if name in mine else []
        found += [f"+ {texts[name, '+']}"] if name in other else []
    if not found:
        return "neither names these modules: they are whole on every rank.", []
    if all(line.startswith(" ") for line in found):
        return "they say the same of these modules; what differs is in the code around the plan.", found
    return f"`-` is {right.framework}, `+` is {wrong.framework}.", found


def _keys(found: Sequence[PlanRow], sign: str) -> list[tuple[str, str]]:
    return [(row.pattern, sign) for row in found]


def _cells(row: PlanRow) -> tuple[str, str, str]:
    """Style in normal form (the framework's own name where there is none), layouts, collectives."""
    layouts = f"{_layout(row.input)} -> {_layout(row.output)}" if row.input or row.output else ""
    said = [
        f"{phase} {'+'.join(kinds)}" for phase, kinds in (("forward", row.forward), ("backward", row.backward)) if kinds
    ]
    said += [f"gradient {row.gradient}"] if row.gradient != "none" else []
    return row.kind if row.known else row.style, layouts, ", ".join(said)


def _layout(text: str | None) -> str:
    return place(text or "as it comes")


def _aligned(table: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)] if table else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
