"""docs/bugs.md: the bug book as a page, with what the sweep saw of each entry."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from tpscope.bugs import Bug, Expected
from tpscope.language.verdict import Verdict
from tpscope.render.markdown import table
from tpscope.report.prove_rows import Cell, Proofs
from tpscope.report.text import ABSENT, anchor, listed

NOT_SWEPT = "not in the sweep"


def page(book: Sequence[Bug], proofs: Proofs) -> str:
    """The whole page."""
    lines = [
        "# Bug book",
        "",
        "Known bugs of the frameworks under tensor parallelism: what, where it was reported, which versions, and how "
        "to see it. Written from `bugs/*.toml` by `make sweep`; edits here are lost. `tpscope check` names the entries "
        "that bite a file.",
        "",
    ]
    lines += table(
        ["entry", "package", "affected", "fixed in", "reported", "cells of the sweep that show it"],
        [
            [
                f"[{bug.id}](#{anchor(bug.id)})", bug.framework, f"`{bug.affected}`", bug.fixed or "not yet",
                f"[{_thread(bug.link)}]({bug.link})" if bug.link else "no", str(len(_shown(bug, proofs))),
            ]
            for bug in book
        ],
    )  # fmt: skip
    for bug in book:
        lines += ["", f"## {bug.id}", "", f"**{bug.title}**", "", bug.what, "", *_facts(bug)]
        if bug.expected:
            lines += [
                "",
                *table(["on", "expected", "the sweep saw"], [_held(bug, one, proofs) for one in bug.expected]),
            ]
        shown = _seen(_shown(bug, proofs))
        if shown:
            lines += ["", "Cells of the sweep that this explains:", "", *shown]
    return "\n".join(lines) + "\n"


def disagreements(book: Sequence[Bug], proofs: Proofs) -> list[str]:
    """Expectations of the book that the sweep contradicts, one sentence each."""
    return [
        f"bugs/{bug.id}: {one.framework} is expected to be {_said(one.verdict, one.cause)}, the sweep saw "
        f"{_said(cell.verdict.value, listed(cell.causes, ''))} ({cell.model}, {cell.scenario})"
        for bug in book
        for one in bug.expected
        for cell in _asked(bug, one, proofs)
        if not _agrees(one, cell)
    ]


def _facts(bug: Bug) -> list[str]:
    conditions = [
        *([f"models: {listed(bug.model_types)}"] if bug.model_types else []),
        *([f"scenario: {bug.scenario}"] if bug.scenario else []),
        *([f"frameworks: {listed(bug.families)}"] if bug.families else []),
        *([f"settings: {listed(f'`{setting}`' for setting in bug.settings)}"] if bug.settings else []),
    ]
    fixed = f"fixed in {bug.fixed}" if bug.fixed else "not fixed in any version that was seen"
    lines = [f"- {bug.framework} `{bug.affected}`, {fixed}. How that is known: {bug.range_evidence or 'not said'}"]
    lines += [f"- Bites with {'; '.join(conditions)}."] if conditions else []
    lines += [f"- Reported: {bug.link or bug.reported}" + (f"; related: {listed(bug.also)}" if bug.also else "")]
    lines += [f"- Shown by `{bug.command}`"] if bug.command else []
    lines += [f"- Without tpscope: `torchrun --nproc-per-node 2 bugs/{bug.script}`"] if bug.script else []
    return lines + ([f"- {bug.note}"] if bug.note else [])


def _thread(link: str) -> str:
    return "/".join(link.removeprefix("https://github.com/").split("/")[1:2] + link.split("/")[-1:])


def _shown(bug: Bug, proofs: Proofs) -> list[Cell]:
    return [cell for cell in proofs.cells if bug.id in cell.bugs]


def _seen(cells: Sequence[Cell]) -> list[str]:
    """One line a framework and verdict."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.framework, cell.verdict.value), []).append(cell)
    return [
        f"- {framework}, {verdict}: {listed(cell.model for cell in mine)} in {listed(cell.scenario for cell in mine)}"
        for (framework, verdict), mine in groups.items()
    ]


def _held(bug: Bug, one: Expected, proofs: Proofs) -> list[str]:
    cells = _asked(bug, one, proofs)
    saw = listed(
        _said(cell.verdict.value, listed(cell.causes, "")) + ("" if _agrees(one, cell) else " **(not as expected)**")
        for cell in cells
    )
    expected = _said(one.verdict, one.cause)
    if one.first:
        expected += f" ([{one.first}](#{anchor(one.first)}) comes first)"
    return [one.framework, expected, saw if cells else NOT_SWEPT]


def _asked(bug: Bug, one: Expected, proofs: Proofs) -> list[Cell]:
    """The cell of the entry's own command on one version: its first model, its last scenario."""
    words = shlex.split(bug.command)
    if not bug.shown_by_prove or len(words) < 3:
        return []
    ways = words[words.index("--scenarios") + 1] if "--scenarios" in words else "plain"
    size = int(words[words.index("--tp") + 1]) if "--tp" in words else 2
    cell = proofs.cell(one.framework, words[2], ways.split(",")[-1])
    return [cell] if cell and cell.tp == size else []


def _agrees(one: Expected, cell: Cell) -> bool:
    return cell.verdict == Verdict(one.verdict) and (not one.cause or one.cause in cell.causes)


def _said(verdict: str, cause: str) -> str:
    return f"{verdict}, {cause}" if cause else verdict or ABSENT
