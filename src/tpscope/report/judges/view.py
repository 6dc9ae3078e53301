"""What a judge is given, the recorded rows of an experiment for one time, and what it gives back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tpscope.frameworks.registry import families
from tpscope.language.answer import TrailLine
from tpscope.language.verdict import Status, Verdict
from tpscope.report.experiments.complexity_rows import Complexity
from tpscope.report.facts import Study
from tpscope.report.prove_rows import Cell
from tpscope.report.rows import Cited, Column, RunRow
from tpscope.report.runs import PLAIN
from tpscope.report.text import listed, not_yet

Asked = tuple[RunRow, Column]
_JUDGED = (Verdict.EQUAL, Verdict.DIFFERENT, Verdict.CRASHED, Verdict.REFUSED)


@dataclass(frozen=True)
class Quoted:
    """A source line of a framework, read or run."""

    framework: str
    line: TrailLine


@dataclass(frozen=True)
class Found:
    """What the rows say to a judge's question: yes, no, or None where they cannot tell; in words, with source lines."""

    met: bool | None
    words: str
    evidence: tuple[Quoted, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What the rows answer to a question: in a few words ("" where they cannot tell), in full, with source lines."""

    verdict: str
    words: str
    evidence: tuple[Quoted, ...] = ()


@dataclass(frozen=True)
class View:
    """The rows of one statement's experiment, and the two framework versions of one time (empty where not asked)."""

    study: Study
    nemo: str
    axolotl: str

    def asked(self, framework: str, kind: str | None = PLAIN) -> list[Asked]:
        """Every answer of a framework with its run; of every kind of run if `kind` is None."""
        return [
            (run, column)
            for run in self.study.runs
            if kind in (None, run.question.kind) and (column := run.column(framework))
        ]

    def answered(self, framework: str, kind: str | None = PLAIN) -> list[Asked]:
        """Answers that are a sharded model."""
        return [(run, column) for run, column in self.asked(framework, kind) if column.status == Status.OK]

    def tried(self, framework: str) -> list[Asked]:
        """Plain answers whose selection was put through experiments."""
        return [pair for pair in self.asked(framework) if pair[1].selection.experiments]

    def own_plan(self, framework: str) -> list[str]:
        """Where a plan of the user's was put without writing code, and was then the plan of every model tried."""
        ways = [way for row in self.study.measured(Complexity, framework) for way in row.ways if framework]
        return [listed(way.places) for way in ways if way.editing != "code" and all(way.taken.values())]

    def cells(self, framework: str, scenario: str) -> list[Cell]:
        """Proofs of one way to train that came to a verdict about the framework, and do not end as plain TP does."""
        cells = self.study.proofs.of(framework, scenario)
        return [cell for cell in cells if cell.verdict in _JUDGED and not self._as_plain(cell)]

    def _as_plain(self, cell: Cell) -> bool:
        plain = self.study.proofs.cell(cell.framework, cell.model)
        same = plain is not None and plain.verdict == cell.verdict != Verdict.EQUAL
        return same and plain is not None and (set(plain.causes), plain.said) == (set(cell.causes), cell.said)

    def cited(self, framework: str, what: str, name: str = "") -> list[Cited]:
        """What was read in a framework's source, all of one sort or one name of it."""
        return [item for item in self.study.cited(framework, what) if name in ("", item.name)]


def unasked(verb: str = "compare", known: str = "", evidence: tuple[Quoted, ...] = ()) -> Found:
    """The rows cannot tell; `verb` will. `known` is what they say all the same, down to what is not measured."""
    return Found(None, ": ".join(filter(None, (known, not_yet(verb)))), evidence)


def cites(framework: str, items: Iterable[Cited]) -> tuple[Quoted, ...]:
    """Cited lines as evidence."""
    return tuple(Quoted(framework, item.where) for item in items)


def ran(pairs: Iterable[Asked], pattern: str, symbol: str = "") -> tuple[Quoted, ...]:
    """The first line that ran and matches a pattern (in a function, if one is named), as evidence; none if none did."""
    for _, column in pairs:
        for line in [*column.selection.trail, *column.gradient_trail]:
            if re.search(pattern, line.text) and symbol in ("", line.symbol):
                return (Quoted(column.id, line),)
    return ()


def raised(pairs: Iterable[Asked], loops: bool = False) -> tuple[Quoted, ...]:
    """The lines that raised what ended these answers, each once; with `loops`, those that ended their training too."""
    errors = [
        (column.id, error)
        for _, column in pairs
        for error in (column.error, column.loop_error if loops else None)
        if error
    ]
    lines = {
        (key, error.where.path, error.where.line): Quoted(key, error.where) for key, error in errors if error.where
    }
    return tuple(lines.values())


def models(pairs: Iterable[Asked]) -> str:
    """Names of the models asked, or `none`."""
    return ", ".join(dict.fromkeys(run.question.model for run, _ in pairs)) or "none"


def share(some: Iterable[object], of: Iterable[object], what: str = "models") -> str:
    """`3 of 10 models`."""
    return f"{len(list(some))} of {len(list(of))} {what}"


def proofs(cells: Iterable[Cell], what: str) -> str:
    """How proofs of one sort ended, and the causes that were named; empty if there are none."""
    kept = list(cells)
    counts = Counter(cell.verdict.value for cell in kept)
    causes = listed((cause for cell in kept for cause in cell.causes), "")
    ends = listed((f"{count} {verdict}" for verdict, count in counts.most_common()), "")
    return f"proofs {what}: {ends}" + (f" ({causes})" if causes else "") if ends else ""


def own(framework: str) -> str:
    """The folder of a framework's own package, as paths of the rows begin."""
    return families()[framework.partition("@")[0]].module + "/"


def outside_torch(column: Column) -> bool:
    """True if torch ran outside the range that the framework declares, so that a crash may come from that."""
    return any(item["package"] == "torch" for item in column.outside_pin)


def inputs(column: Column) -> list[str]:
    """Inputs of the framework's own selection, as the experiments switched them."""
    return [name for name in column.selection.experiments[0] if name != "outcome"]
