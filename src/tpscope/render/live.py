"""What a running matrix of proofs looks like, on standard error: a live table in a terminal, lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text

from tpscope.language.proof import ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.prove.run import Case
from tpscope.render.status import Status
from tpscope.render.words import COLOURS

FEW = 4


class Live(Status):
    """Follows the cases of a matrix. One row a model, scenario and tp size, one column a framework."""

    def __init__(self, cases: Sequence[Case], console: Console | None = None) -> None:
        self._cases = cases
        self._lock = threading.Lock()
        self._started: dict[str, float] = {}
        self._done: dict[str, Verdict] = {}
        self._latest = 0
        self._rows = list(dict.fromkeys(_row(case) for case in cases))
        self._columns = list(dict.fromkeys(case.target.id for case in cases))
        console = console or Console(stderr=True)
        super().__init__(console, RichLive(self, console=console, refresh_per_second=4, transient=True))

    def watch(self, case: Case, answer: ProofAnswer | None) -> None:
        """Take the start (None) or the answer of a case."""
        with self._lock:
            self._latest = self._rows.index(_row(case))
            if answer is None:
                self._started[case.name] = time.monotonic()
                return
            self._started.pop(case.name, None)
            self._done[case.name] = answer.verdict
        if not self._shown and len(self._cases) > FEW:
            self._console.print(f"{case.name}: {answer.verdict.value}", highlight=False, soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """The table as it stands, its rows around the case that runs where the terminal is too low for all."""
        with self._lock:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
            for head in ("model", "scenario", "tp", *self._columns):
                table.add_column(head, no_wrap=True)
            height = max(3, self._console.height - 6)
            first = max(0, min(self._latest - height // 2, len(self._rows) - height))
            for row in self._rows[first : first + height]:
                table.add_row(
                    *row, *(self._cell(f"{column} {row[0]} {row[1]} tp={row[2]}") for column in self._columns)
                )
            running = ", ".join(self._started) or "nothing"
            foot = Text(f"{len(self._done)} of {len(self._cases)} cases; running {running}", style="dim", no_wrap=True)
            return Group(table, foot)

    def _cell(self, name: str) -> Text:
        if name in self._done:
            verdict = self._done[name]
            return Text(verdict.value, style=COLOURS[verdict])
        if name in self._started:
            return Text(f"{time.monotonic() - self._started[name]:.0f} s", style="bold")
        return Text("·", style="dim")


def _row(case: Case) -> tuple[str, str, str]:
    return case.model.name, case.scenario.name, str(case.tp)
