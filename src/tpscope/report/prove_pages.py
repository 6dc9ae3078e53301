"""The proofs of a sweep as Markdown: a table a framework, what is different by cause, what was raised, how long."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tpscope.bugs import Bug
from tpscope.language.verdict import Verdict
from tpscope.render.markdown import table
from tpscope.render.words import number
from tpscope.report.prove_rows import Cell, Proofs
from tpscope.report.prove_speed import WARM_LIMIT, Measured, Warm
from tpscope.report.text import ABSENT, listed, together

SHORT = {
    Verdict.EQUAL: "=",
    Verdict.DIFFERENT: "**≠**",
    Verdict.CRASHED: "crash",
    Verdict.REFUSED: "refused",
    Verdict.UNSUPPORTED: "-",
    Verdict.INCONCLUSIVE: "?",
}
LEGEND = (
    "`=` equal on CPU, on the paths that were exercised; **≠** different, with the cause that a repair confirmed "
    "(`unconfirmed` where none did); `crash` the framework raised by accident, died or hung; `refused` it declined in "
    "its own words; `-` it has no such setting, or takes it and ignores it; `?` the comparison could not have told."
)
DIFFERENCES = ["cause", "framework", "models", "scenarios", "worst error", "depth", "entry", "ours or theirs"]
RAISED = ["framework", "verdict", "models", "scenarios", "words", "entry"]
UNSETTLED = "**not settled**"


def part(proofs: Proofs, book: Sequence[Bug], speed: Sequence[Measured]) -> list[str]:
    """All that docs/matrix.md says of proofs, nothing where none was recorded."""
    if not proofs.cells:
        return []
    lines = ["", "## Proofs, TP=2", ""]
    lines += [
        "Each cell is one proof on real ranks: the framework's own loader, plan and training loop on a small model of "
        "the same structure, laid parameter by parameter beside the same model unsharded, at the deepest depth that "
        "could be set up. Repeat one with `tpscope prove MODEL --with FRAMEWORK --scenarios SCENARIO --tp 2`.",
        "", LEGEND, "",
    ]  # fmt: skip
    lines += table(["framework", *(verdict.value for verdict in Verdict), "cells"], counts(proofs))
    for framework in proofs.frameworks:
        lines += ["", f"### {framework}", "", *_about(proofs, framework)]
        ways = list(dict.fromkeys(cell.scenario for cell in proofs.of(framework)))
        names = list(dict.fromkeys(cell.model for cell in proofs.of(framework)))
        rows = [[name, *(short(proofs.cell(framework, name, way)) for way in ways)] for name in names]
        lines += table(["model", *ways], rows)
    lines += ["", "### What is different, by cause", ""]
    rows = differences(proofs, proofs.of(verdict=Verdict.DIFFERENT), book)
    lines += table(DIFFERENCES, rows) if rows else ["Nothing."]
    lines += ["", "### In the frameworks' own words, proofs", ""]
    lines += table(RAISED, raised(proofs.cells)) if raised(proofs.cells) else ["Nothing."]
    return [*lines, *_durations(proofs, speed)]


def short(cell: Cell | None) -> str:
    """One cell in a word or a sign."""
    if cell is None:
        return "not swept"
    if cell.verdict != Verdict.DIFFERENT:
        return SHORT[cell.verdict]
    mark = "" if all(item.repaired for item in cell.named) else ", unconfirmed"
    return f"{SHORT[cell.verdict]} {listed(cell.causes, 'no cause')}{mark}"


def counts(proofs: Proofs, scenarios: Sequence[str] = ()) -> list[list[str]]:
    """A row a framework: how many cells came to each verdict, of some scenarios or of all."""
    rows = []
    for framework in proofs.frameworks:
        cells = [cell for cell in proofs.of(framework) if not scenarios or cell.scenario in scenarios]
        found = [str(sum(cell.verdict == verdict for cell in cells)) for verdict in Verdict]
        rows.append([framework, *found, str(len(cells))])
    return rows


def _about(proofs: Proofs, framework: str) -> list[str]:
    swept = proofs.swept.get(framework)
    if swept is None:
        return []
    packages = ", ".join(f"{name} {version}" for name, version in swept.packages.items())
    declared = f" (it declares torch{swept.torch_declared})" if swept.torch_declared else ""
    dates = sorted({cell.date for cell in proofs.of(framework)})
    commits = listed(cell.commit for cell in proofs.of(framework))
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    return [
        f"{packages}{declared}. `{swept.command}`, {when} at {commits}, {swept.hardware}; "
        f"{swept.seconds:.0f} s in its cells.",
        "",
    ]


def differences(proofs: Proofs, cells: Iterable[Cell], book: Sequence[Bug]) -> list[list[str]]:
    """Rows on what is different: one for a cause, a framework and the entries that expect it, with all their cells."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[tuple[Cell, bool]]] = {}
    for cell in cells:
        for cause in cell.causes or ("",):
            entries = tuple(proofs.explained_by(cell, book, cause))
            repaired = any(item.repaired for item in cell.named if item.cause == cause)
            groups.setdefault((cause, cell.framework, entries), []).append((cell, repaired))
    rows = []
    for (cause, framework, entries), found in sorted(groups.items(), key=lambda group: group[0]):
        mine = [cell for cell, _ in found]
        names, ways = _where(mine)
        confirmed = "" if all(repaired for _, repaired in found) else ", not confirmed by a repair"
        worst = number(max((cell.worst or 0.0 for cell in mine), default=0.0))
        rows.append([
            (cause or "no cause named") + confirmed, framework, names, ways, worst,
            listed(cell.depth.value for cell in mine), listed(entries),
            settled([bug for bug in book if bug.id in entries], mine),
        ])  # fmt: skip
    return rows


def _where(cells: Sequence[Cell]) -> tuple[str, str]:
    """Models, and the scenarios of each group of models that shares them."""
    ways: dict[str, list[str]] = {}
    for cell in cells:
        ways.setdefault(cell.model, []).append(cell.scenario)
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, mine in ways.items():
        alike.setdefault(tuple(mine), []).append(name)
    if len(alike) == 1:
        return listed(ways), listed(next(iter(alike)))
    return listed(ways), together(f"{listed(mine)} ({listed(names)})" for mine, names in alike.items())


def settled(found: Sequence[Bug], cells: Sequence[Cell]) -> str:
    """Whose fault a difference is, and by what that is known."""
    caveat = "; torch is outside its range" if any(cell.caveat for cell in cells) else ""
    if not found:
        return UNSETTLED + caveat
    scripts = [f"`bugs/{bug.script}`" for bug in found if bug.script]
    if scripts:
        return f"the framework's: {listed(scripts)} shows it without tpscope{caveat}"
    links = [bug.link for bug in found if bug.link]
    return f"the framework's: {listed(links) if links else 'read in its source'}{caveat}"


def raised(cells: Iterable[Cell]) -> list[list[str]]:
    """Rows on what crashed, was refused or is not there: one for each framework and what it said."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        if cell.verdict in (Verdict.EQUAL, Verdict.DIFFERENT):
            continue
        # Sizes in a message are those of one model: the same words about another model are the same answer.
        alike = re.sub(r"\d+", "#", _words(cell))
        outside = " (torch is outside its range)" if cell.caveat else ""
        key = (cell.framework, cell.verdict.value + outside, alike, listed(cell.bugs, ABSENT))
        groups.setdefault(key, []).append(cell)
    return [
        [framework, verdict, *_where(mine), _words(mine[0]), entries]
        for (framework, verdict, _, entries), mine in groups.items()
    ]


def _words(cell: Cell) -> str:
    words = cell.said or cell.sentence or "no words"
    return f"{words} ({cell.at})" if cell.at else words


def _durations(proofs: Proofs, speed: Sequence[Measured]) -> list[str]:
    lines = ["", "### How long proofs take", ""]
    warm = Warm.of(proofs.cells)
    if warm is not None:
        lines += [
            f"{warm.cases} cases on warm ranks, each in the middle of a batch: median {warm.median:.1f} s, nine in ten "
            f"within {warm.slow:.1f} s, {warm.within:.0%} within {WARM_LIMIT:.0f} s.",
            "",
        ]
        rows = []
        for way in proofs.scenarios:
            one = Warm.of(proofs.of(scenario=way))
            if one is not None:
                cells = [way, str(one.cases), f"{one.median:.1f}", f"{one.slow:.1f}", f"{one.within:.0%}"]
                rows.append(cells)
        head = ["scenario", "cases", "median, s", "nine in ten within, s", f"within {WARM_LIMIT:.0f} s"]
        lines += table(head, rows)
    if speed:
        lines += ["", "Whole processes, everything asked afresh, overlays installed.", ""]
        lines += table(
            ["what", "seconds", "at most", "verdicts", "measured"],
            [
                [
                    row.what, f"{row.seconds:.0f}", f"{row.limit:.0f}",
                    listed(f"{count} {verdict}" for verdict, count in row.verdicts.items()),
                    f"{row.date} at {row.commit}, {row.hardware}",
                ]
                for row in speed
            ],
        )  # fmt: skip
    return lines
