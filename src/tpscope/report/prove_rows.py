"""The rows of results/prove.jsonl: one a framework that was swept, one a cell. All that the pages on proofs say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tpscope import bugs
from tpscope.bugs import Bug, Seen
from tpscope.language.plan import wildcard
from tpscope.language.proof import Cause, Depth, Diagnosis, ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.models.fields import Fields
from tpscope.models.spec import ModelSpec
from tpscope.report.record import steady
from tpscope.report.rows import line

PROOFS = Path("results/prove.jsonl")
LONGEST = 240
# What a case hangs on where it hung is a matter of the moment: which rank was seen first, how long it was given.
_MOMENT = re.compile(r"\b(?:pid|process) \d+\b|\bwithin \d+ s\b")
_KV_HEADS = "num_key_value_heads"


@dataclass
class Swept:
    """One framework of the sweep: the command that repeats it, where and when it ran last, with which packages.

    `seconds` is what its cells took when they ran. A cell has the commit and the date of its own run.
    """

    framework: str
    command: str
    commit: str
    hardware: str
    date: str
    seconds: float
    packages: dict[str, str] = field(default_factory=dict)
    torch_declared: str = ""
    row: str = "swept"


@dataclass
class Named:
    """One cause: what it did to which parameters, and the line that put it there. `at` is `path:line`."""

    cause: Cause
    parameters: list[str]
    sentence: str
    factor: str = ""
    repaired: bool = False
    at: str = ""
    mend: str = ""


@dataclass
class Cell:
    """One proof. `worst` is the largest relative error, of parameter `worst_of`; `said` is what a framework raised.

    `shallower` is depth to verdict where a shallower depth was judged too. `bugs` are the entries that explain it.
    """

    framework: str
    model: str
    model_type: str
    scenario: str
    tp: int
    verdict: Verdict
    depth: Depth
    sentence: str
    caveat: str = ""
    named: list[Named] = field(default_factory=list)
    worst: float | None = None
    worst_of: str = ""
    loss_error: float | None = None
    forward_error: float | None = None
    said: str = ""
    at: str = ""
    shallower: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    commit: str = ""
    date: str = ""
    bugs: list[str] = field(default_factory=list)
    row: str = "cell"

    @property
    def causes(self) -> tuple[str, ...]:
        """Causes that the diagnosis named, each once."""
        return tuple(dict.fromkeys(item.cause.value for item in self.named))


Row = Swept | Cell
_READ: dict[str, TypeAdapter[Any]] = {"swept": TypeAdapter(Swept), "cell": TypeAdapter(Cell)}


def cell(answer: ProofAnswer, model: ModelSpec, config: dict[str, Any]) -> Cell:
    """An answer cut down to what the pages tell. `config` is the proof-sized one."""
    wrong = [row for row in answer.parameters if not row.equal and row.error is not None]
    worst = max(wrong, key=lambda row: row.error or 0.0, default=None)
    heads = next((value for path, value in Fields(config, "").leaves() if path.endswith(_KV_HEADS)), None)
    error = answer.error
    return Cell(
        framework=answer.framework,
        model=answer.model,
        model_type=model.model_type,
        scenario=answer.scenario,
        tp=answer.tp,
        verdict=answer.verdict,
        depth=answer.depth,
        sentence=_short(answer.sentence),
        caveat=answer.caveat,
        named=[_named(item) for item in answer.diagnosis],
        worst=_rounded(worst.error if worst else None),
        worst_of=wildcard(worst.name) if worst else "",
        loss_error=_rounded(answer.loss_error),
        forward_error=_rounded(answer.forward_error),
        said=_short(f"{error.kind}: {error.message}") if error else "",
        at=f"{error.where.path}:{error.where.line}" if error and error.where else "",
        shallower={item.depth.value: item.verdict.value for item in answer.shallower},
        sizes={_KV_HEADS: heads} if isinstance(heads, int) else {},
        seconds=answer.seconds,
    )


def hung(answer: ProofAnswer) -> bool:
    """True if a case ran into its time-out: on a busy machine that says nothing of the framework."""
    return answer.error is not None and answer.error.kind == "ProcessDied" and "no answer within" in answer.sentence


def _named(item: Diagnosis) -> Named:
    where = item.evidence[0] if item.evidence else None
    return Named(
        item.cause, list(dict.fromkeys(wildcard(name) for name in item.parameters))[:8], _short(item.sentence),
        item.factor, item.repaired, f"{where.path}:{where.line}" if where else "", item.mend,
    )  # fmt: skip


def _short(text: str) -> str:
    text = " ".join(_MOMENT.sub(_timeless, steady(text)).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3].rstrip() + "..."


def _timeless(match: re.Match[str]) -> str:
    return "in time" if match[0].startswith("within") else match[0].partition(" ")[0]


def _rounded(error: float | None) -> float | None:
    return None if error is None else float(f"{error:.3g}")


class Proofs:
    """The recorded rows, asked by framework, model and scenario."""

    def __init__(self, rows: Sequence[Row] = ()):
        self.swept = {row.framework: row for row in rows if isinstance(row, Swept)}
        self.cells = [row for row in rows if isinstance(row, Cell)]
        self.frameworks = list(dict.fromkeys(row.framework for row in self.cells))
        self.models = list(dict.fromkeys(row.model for row in self.cells))
        self.scenarios = list(dict.fromkeys(row.scenario for row in self.cells))
        self._found = {(row.framework, row.model, row.scenario): row for row in self.cells}

    def cell(self, framework: str, model: str, scenario: str = "plain") -> Cell | None:
        """One cell, or None if it was not swept."""
        return self._found.get((framework, model, scenario))

    def of(self, framework: str = "", scenario: str = "", verdict: Verdict | None = None) -> list[Cell]:
        """Cells of a framework, a scenario and a verdict, where they are given."""
        return [
            row
            for row in self.cells
            if framework in ("", row.framework) and scenario in ("", row.scenario) and verdict in (None, row.verdict)
        ]

    def seen(self, cell: Cell) -> Seen:
        """A cell as the bug book looks it up."""
        swept = self.swept.get(cell.framework)
        return Seen(
            cell.framework, swept.packages if swept else {}, cell.model_type, cell.scenario, cell.tp,
            cell.verdict.value, cell.causes, cell.sizes, cell.said,
        )  # fmt: skip

    def explained_by(self, cell: Cell, book: Iterable[Bug], cause: str = "") -> list[str]:
        """Ids of the entries that expect what this cell shows, or one cause of it. Nothing explains an equal one."""
        if cell.verdict in (Verdict.EQUAL, Verdict.INCONCLUSIVE):
            return []
        found = replace(self.seen(cell), causes=(cause,)) if cause else self.seen(cell)
        return [bug.id for bug in book if bugs.explains(bug, found)]

    def unexplained(self) -> list[str]:
        """Every different cell with a cause that no entry of the bug book expects, one sentence each."""
        return [
            f"{row.framework} {row.model} {row.scenario}: {cause} is in no entry of bugs/"
            for row in self.of(verdict=Verdict.DIFFERENT)
            for cause in bugs.unexplained(self.seen(row))
        ]


def read(root: Path) -> list[Row]:
    """The recorded rows, none if there is no file."""
    path = root / PROOFS
    if not path.is_file():
        return []
    return [read_line(text) for text in path.read_text("utf-8").splitlines() if text]


def is_row(text: str) -> bool:
    """True if a line of JSON is one of these rows."""
    return json.loads(text)["row"] in _READ


def read_line(text: str) -> Row:
    """The row of one line of JSON."""
    row: Row = _READ[json.loads(text)["row"]].validate_json(text)
    return row


def write(root: Path, rows: Iterable[Row]) -> None:
    """Write all rows, each cell with the entries of the bug book that explain it, whole or not at all."""
    kept = list(rows)
    proofs, book = Proofs(kept), bugs.load()
    for row in proofs.cells:
        row.bugs = proofs.explained_by(row, book)
    path = root / PROOFS
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(line(row) + "\n" for row in kept), encoding="utf-8")
    partial.replace(path)
