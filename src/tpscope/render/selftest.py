"""The self-test in the terminal: one row a kind of fault, then what was missed and every alarm, then the counts."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tpscope.language.proof import ProofAnswer
from tpscope.prove.faults import FAULTS
from tpscope.prove.run import Case
from tpscope.prove.selftest import MutationRow, SelfTest
from tpscope.render.status import Status

FEW = 40


class Live(Status):
    """Which case runs, on standard error: a live line in a terminal, elsewhere a line for every tenth of many cases."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        super().__init__(console)
        self._total, self._done = total, 0

    def watch(self, case: Case, answer: ProofAnswer | None) -> None:
        """Take the start (None) or the answer of a case."""
        if answer is not None:
            self._done += 1
        line = f"{self._done} of {self._total} cases; {case.name}"
        self.line(line)
        if not self._shown and answer is not None and self._total > FEW and self._done % 10 == 0:
            self._console.print(line, highlight=False, soft_wrap=True)


def show(result: SelfTest, console: Console) -> None:
    """Print the whole self-test."""
    console.print(_table(result))
    for row in result.missed:
        console.print(Text.assemble(("missed", "bold red"), f"  {row.kind} in {row.model} ({row.framework})"))
        console.print(Padding(Text("\n".join(_why(row))), (0, 0, 1, 2)))
    for control in result.alarms:
        words = f"  {control.model} {control.scenario} ({control.framework}): {control.verdict.value}"
        console.print(Text.assemble(("false alarm", "bold red"), words))
        console.print(Padding(Text(control.sentence), (0, 0, 1, 2)))
    for line in _put_aside(result):
        console.print(Text(line, style="dim"))
    for line in counts(result):
        console.print(Text(line, style="bold"))


def counts(result: SelfTest) -> list[str]:
    """What was found of what was broken, and how many alarms there were where nothing was."""
    rows = result.mutations
    kinds, models = len({row.kind for row in rows}), len({row.model for row in rows})
    found, named = sum(row.found for row in rows), sum(row.named for row in rows)
    mended = sum(bool(control.mended) for control in result.controls)
    note = f" ({mended} of them with the framework's own fault mended first)" if mended else ""
    lines = [
        f"{len(rows)} mutations, {kinds} kinds on {models} architectures: {found} found, {named} named",
        f"{len(result.controls)} unbroken controls: {len(result.alarms)} alarms{note}",
    ]
    return [*lines, f"interrupted, {result.interrupted} cases not reached"] if result.interrupted else lines


def _table(result: SelfTest) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for head in ("fault", "scenario", "named by its cause"):
        table.add_column(head, no_wrap=True)
    for head in ("models", "found", "named"):
        table.add_column(head, justify="right")
    kinds: dict[str, list[MutationRow]] = {}
    for row in result.mutations:
        kinds.setdefault(row.kind, []).append(row)
    # In the order of the faults, not of the first model that had a place for them.
    for kind in [fault.kind for fault in FAULTS if fault.kind in kinds]:
        rows = kinds[kind]
        found, named = sum(row.found for row in rows), sum(row.named for row in rows)
        style = "" if named == len(rows) else "red"
        table.add_row(
            kind, rows[0].scenario, rows[0].expected.value, str(len(rows)), str(found), str(named), style=style
        )
    return table


def _why(row: MutationRow) -> Iterator[str]:
    yield f"what was done: {row.does}"
    yield row.sentence
    yield f"expected {row.expected} at {', '.join(row.places) or 'any place'}"
    yield f"named {', '.join(row.causes) or 'nothing'} at {', '.join(row.where) or 'no place'}"


def _put_aside(result: SelfTest) -> Iterator[str]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in result.not_applicable:
        reasons.setdefault((row.kind, row.reason), []).append(row.model)
    for (kind, reason), models in reasons.items():
        yield f"not applicable: {kind} in {', '.join(models)}: {reason}"
