"""What the guide is made from: results/guide.jsonl (plans, and proofs that no sweep has), and results/selftest.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tpscope.language.answer import PlanRow
from tpscope.language.verdict import Verdict
from tpscope.prove.selftest import Control, MutationRow, SelfTest
from tpscope.report import prove_rows
from tpscope.report.guide import Guide, Released, Rule, Wanted
from tpscope.report.prove_rows import Cell
from tpscope.report.rows import Provenance, line

ROWS = Path("results/guide.jsonl")
SELFTEST = Path("results/selftest.json")
# A plan that breaks a rule is caught where the proof does not come out equal.
CAUGHT = (Verdict.DIFFERENT, Verdict.CRASHED)
KEPT = (Verdict.EQUAL, Verdict.REFUSED)


@dataclass
class Planned:
    """The plan of one framework for one model, with the command that shows it. `failed`: why there is none."""

    framework: str
    model: str
    tp: int
    sequence_parallel: bool
    command: str
    made: Provenance
    level: str = ""
    plan: list[PlanRow] = field(default_factory=list)
    failed: str = ""
    row: str = "planned"

    @property
    def wanted(self) -> Wanted:
        """What it is the plan of."""
        return Wanted(self.framework, self.model, self.tp, self.sequence_parallel)


Row = Planned | Cell
_READ: dict[str, TypeAdapter[Any]] = {"planned": TypeAdapter(Planned), "cell": TypeAdapter(Cell)}
_SELFTEST = TypeAdapter(SelfTest)


class BadSelfTest(ValueError):
    """A results/selftest.json that is no answer of `tpscope prove --self-test`."""


@dataclass
class Evidence:
    """The recorded rows as the guide asks for them. `selftest` is None where it is not recorded yet."""

    rows: list[Row]
    swept: Sequence[prove_rows.Row] = ()
    selftest: SelfTest | None = None

    def plan(self, wanted: Wanted) -> Planned | None:
        """One recorded plan, or None."""
        return next((row for row in self.rows if isinstance(row, Planned) and row.wanted == wanted), None)

    def proof(self, framework: str, model: str, scenario: str, tp: int) -> Cell | None:
        """One recorded proof, of the sweep or of the guide's own, or None."""
        cells = [row for row in [*self.swept, *self.rows] if isinstance(row, Cell)]
        asked = (framework, model, scenario, tp)
        return next((row for row in cells if (row.framework, row.model, row.scenario, row.tp) == asked), None)

    def broken(self, kind: str) -> list[MutationRow]:
        """The self-test's answers to one fault, model by model."""
        return [row for row in self.selftest.mutations if row.kind == kind] if self.selftest else []

    def shown(self, rule: Rule) -> MutationRow | None:
        """The first fault of a rule in its model, None where that is not recorded."""
        rows = self.broken(rule.faults[0]) if rule.faults else []
        return next((row for row in rows if row.model == rule.model), None)

    def control(self, row: MutationRow) -> Control | None:
        """The same model unbroken."""
        controls = self.selftest.controls if self.selftest else []
        return next((item for item in controls if (item.model, item.scenario) == (row.model, row.scenario)), None)

    def caught(self, item: Released) -> Cell | None:
        """The proof that catches a released version, None where it is not recorded, catches nothing, or something else
        than the entry of the bug book expects."""
        cell = self.proof(item.framework, item.model, item.scenario, item.tp)
        return cell if cell and cell.verdict in CAUGHT and item.bug in cell.bugs else None

    def catches(self, rule: Rule) -> int:
        """How many recorded proofs catch a plan that breaks a rule."""
        faults = sum(row.found for kind in rule.faults for row in self.broken(kind))
        return faults + sum(self.caught(item) is not None for item in rule.released)


def lacking(guide: Guide, evidence: Evidence) -> list[str]:
    """Rows that the guide needs, or that say something else than it does, one sentence each.

    While nobody has recorded the self-test, its faults are not asked for: the page says that they are missing.
    """
    found = []
    for rule in guide.rule:
        for item in rule.released:
            asked = (item.model, item.scenario, item.tp)
            if evidence.caught(item) is None:
                found.append(
                    f"rule {rule.id}: no recorded proof catches {item.framework} ({item.model}, {item.scenario})"
                )
            right = evidence.proof(item.right, *asked) if item.right else None
            if item.right and (right is None or right.verdict not in KEPT):
                found.append(
                    f"rule {rule.id}: no recorded proof has {item.right} right ({item.model}, {item.scenario})"
                )
        if evidence.selftest is None:
            continue
        for kind in rule.faults:
            rows = evidence.broken(kind)
            if not rows or not all(row.found for row in rows):
                found.append(f"rule {rule.id}: {SELFTEST} has no catch of {kind}" if not rows else f"{kind} was missed")
        if rule.faults and evidence.shown(rule) is None:
            found.append(f"rule {rule.id}: {SELFTEST} has no {rule.faults[0]} in {rule.model}")
        if not evidence.catches(rule):
            found.append(f"rule {rule.id}: no recorded proof catches a plan that breaks it")
    return found


def read(root: Path) -> Evidence:
    """Everything recorded. Raises BadSelfTest."""
    return Evidence(read_rows(root), prove_rows.read(root), _selftest(root / SELFTEST))


def read_rows(root: Path) -> list[Row]:
    """The guide's own rows, none if there is no file."""
    path = root / ROWS
    if not path.is_file():
        return []
    texts = [text for text in path.read_text(encoding="utf-8").splitlines() if text]
    return [_READ[json.loads(text)["row"]].validate_json(text) for text in texts]


def _selftest(path: Path) -> SelfTest | None:
    if not path.is_file():
        return None
    try:
        return _SELFTEST.validate_json(path.read_bytes())
    except ValidationError as error:
        raise BadSelfTest(
            f"{path.name}: {error.errors()[0]['msg']}; record it again: tpscope prove --self-test"
        ) from error


def write(root: Path, rows: Iterable[Row]) -> None:
    """Write the guide's own rows, whole or not at all."""
    path = root / ROWS
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(line(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
