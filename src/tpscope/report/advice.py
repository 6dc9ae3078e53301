"""The rows of results/recommend.jsonl: what `tpscope recommend` answered to typical questions, for the study."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from tpscope.language.verdict import Verdict
from tpscope.recommend.rank import equal_ways, shown
from tpscope.recommend.result import Candidate, Recommendation, Standing
from tpscope.report.prove_rows import PROOFS, Proofs
from tpscope.report.record import steady
from tpscope.report.rows import Provenance, line

ADVICE = Path("results/recommend.jsonl")
ROW = "advice"


@dataclass
class Tried:
    """One candidate. `equal` of `ways` were proved equal; `out_at` is the one that was not, with its verdict."""

    framework: str
    layout: str
    standing: Standing
    reason: str
    level: str = ""
    sharded_fraction: float | None = None
    ways: list[str] = field(default_factory=list)
    equal: int = 0
    out_at: str = ""
    verdict: str = ""
    causes: list[str] = field(default_factory=list)
    bugs: list[str] = field(default_factory=list)
    mends: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    costs: list[str] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)


@dataclass
class Advice:
    """One answer. `found` is what `tpscope check` says of the winner's config: its verdict, and what it asks to change.

    Without a winner `nearest` says what comes nearest and `mends` what would let it in.
    """

    reader: str
    command: str
    made: Provenance
    model: str
    world: int
    hardware: str = ""
    wishes: list[str] = field(default_factory=list)
    winner: str | None = None
    tried: list[Tried] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    checked: str = ""
    found: list[str] = field(default_factory=list)
    nearest: str = ""
    mends: list[str] = field(default_factory=list)
    fallback: bool = False
    config: str = ""
    row: str = ROW

    @property
    def chosen(self) -> Tried | None:
        """The recommended candidate, None where there is none."""
        return next((item for item in self.tried if item.standing is Standing.RECOMMENDED), None)

    @property
    def frameworks(self) -> set[str]:
        """Every framework version that could have been recommended."""
        return {item.framework for item in self.tried if item.standing is not Standing.REFERENCE}


_READ = TypeAdapter(Advice)
# What every training run does, whatever its config says: a recommended framework must not be wrong there either.
ALWAYS = ("plain", "step", "resume")


def contradicted(rows: Iterable[Advice], proofs: Proofs) -> list[str]:
    """Recommendations of which the recorded matrix of proofs says otherwise, one sentence each."""
    return [
        f"{row.command}: recommends {chosen.framework}, and {PROOFS} has its {cell.scenario} as {cell.verdict.value}"
        for row in rows
        if (chosen := row.chosen) is not None
        for scenario in dict.fromkeys([*ALWAYS, *chosen.ways])
        if (cell := proofs.cell(chosen.framework, row.model, scenario)) and cell.verdict is not Verdict.EQUAL
    ]


def advice(reader: str, result: Recommendation, made: Provenance) -> Advice:
    """An answer cut down to what the study tells of it."""
    check = result.check
    names = {"lora": "LoRA", "sequence_parallel": "sequence parallel", "own_plan": "a plan of one's own"}
    return Advice(
        reader=reader,
        command=result.command,
        made=made,
        model=result.model,
        world=result.world,
        hardware=result.hardware,
        wishes=[words for key, words in names.items() if result.asked.get(key)],
        winner=result.winner,
        tried=[_tried(item) for item in result.candidates],
        changes=[steady(text) for text in result.changes],
        checked=check.verdict.value if check and check.verdict else "",
        found=[f"{item.severity.value}: {steady(item.what)}" for item in check.findings] if check else [],
        nearest=steady(result.nearest),
        mends=[steady(text) for text in result.mends],
        fallback=bool(result.fallback),
        config=result.config,
    )


def _tried(item: Candidate) -> Tried:
    failed = item.failed
    packages: dict[str, str] = next(
        (case.environment["packages"] for case in item.cases if case.environment.get("packages")), {}
    )
    return Tried(
        framework=item.framework,
        layout=shown(item),
        standing=item.standing,
        reason=steady(item.reason),
        level=item.level,
        sharded_fraction=item.sharded_fraction,
        ways=item.ways,
        equal=equal_ways(item),
        out_at=failed.scenario if failed else ("" if item.equal or item.cases else "compare"),
        verdict=failed.verdict.value if failed else (Verdict.EQUAL.value if item.equal else item.status),
        causes=list(dict.fromkeys(found.cause.value for found in failed.diagnosis)) if failed else [],
        bugs=[bug.id for bug in item.bugs if bug.shown],
        mends=[steady(text) for text in item.mends],
        left_out=list(item.left_out),
        costs=item.costs,
        packages=dict(sorted(packages.items())),
    )


def read(root: Path) -> list[Advice]:
    """The recorded rows, none if there is no file."""
    path = root / ADVICE
    if not path.is_file():
        return []
    return [read_line(text) for text in path.read_text(encoding="utf-8").splitlines() if text]


def is_row(text: str) -> bool:
    """True if a line of JSON is one of these rows."""
    return bool(json.loads(text)["row"] == ROW)


def read_line(text: str) -> Advice:
    """The row of one line of JSON."""
    return _READ.validate_json(text)


def write(root: Path, rows: Iterable[Advice]) -> None:
    """Write all rows, whole or not at all."""
    path = root / ADVICE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(line(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
