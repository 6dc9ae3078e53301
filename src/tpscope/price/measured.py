"""Rows that bench measured, as price reads them, and what price says of the same cases."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tpscope.compare.ask import Wishes, question
from tpscope.compare.run import Pool, Question
from tpscope.errors import UserError
from tpscope.frameworks import registry
from tpscope.language.measured.bench import alike, counted, undisturbed
from tpscope.language.measured.price import StepTrace
from tpscope.price.trace import Step, traced


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Spread(_Row):
    """Milliseconds over the repeats of a case."""

    median: float
    low: float
    high: float
    repeats: int

    @property
    def half(self) -> float:
        """Half of what lies between the lowest and the highest, as a part of the median."""
        return (self.high - self.low) / 2 / self.median


class Case(_Row):
    """One measured case. `scope` says whether the optimizer's step is in its time and its memory."""

    framework: str
    model: str
    layout: dict[str, Any]
    batch: int
    sequence: int
    compiled: bool = False
    loss: str = ""
    scope: str = "forward-backward"
    milliseconds: Spread | None = None
    forward_milliseconds: Spread | None = None
    memory: dict[str, int] = {}
    hardware: str = ""
    torch: str = ""
    stands_for: str | None = None
    rehearsal: bool = False
    error: str | None = None
    order: int = 0
    date: str = ""
    source: str = ""

    @property
    def peak(self) -> int:
        """Peak bytes of the step above what was there before its model: a failed import of NeMo's kept the
        first model of a process allocated, and what it kept is no part of the step."""
        left = self.memory.get("after_load", 0) - self.memory.get("weights", 0)
        return self.memory.get("peak_bytes", 0) - max(0, left)

    @property
    def tp(self) -> int:
        """Tensor-parallel ranks."""
        return int(self.layout.get("tp", 1))

    @property
    def parallel(self) -> bool:
        """Whether the sequence is sharded too."""
        return bool(self.layout.get("sequence_parallel"))

    @property
    def name(self) -> str:
        """A case in one line."""
        words = [self.framework, self.model, f"tp={self.tp}", f"seq={self.sequence}"]
        return " ".join([*words, *(["sp"] if self.parallel else []), *(["compiled"] if self.compiled else [])])


class Calibration(_Row):
    """One measured kernel, collective or cost of the CPU: what, how large, how long."""

    kind: str
    size: dict[str, Any]
    milliseconds: float
    hardware: str = ""
    torch: str = ""
    rehearsal: bool = False


@dataclass(frozen=True)
class Rows:
    """What stands in some files."""

    cases: tuple[Case, ...]
    calibration: tuple[Calibration, ...]
    again: tuple[Again, ...] = ()


@dataclass(frozen=True)
class Again:
    """A case that was measured more than once: each time's median, its undisturbed repeats (None where bench did not
    look), and whether it is the one that counts."""

    case: str
    loss: str
    times: list[tuple[float, int | None, bool]]


def read(files: Iterable[str]) -> Rows:
    """Rows of all files; of a case that was measured more than once the row that counts (`counted`).

    Raises UserError for a line that is no row.
    """
    cases: list[tuple[dict[str, Any], Case]] = []
    calibration: list[Calibration] = []
    for name in files:
        path = Path(name)
        if not path.is_file():
            raise UserError(f"--check {name}: there is no such file; bench writes results/bench-*.jsonl")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                raw = json.loads(line)
                if raw.get("row") == "case":
                    cases.append((raw, Case.model_validate(raw)))
                elif raw.get("row") == "calibration" and raw.get("milliseconds") is not None:
                    calibration.append(Calibration.model_validate(raw))
            except (ValueError, ValidationError) as error:
                words = str(error).splitlines()[0]
                raise UserError(
                    f"{name}:{number}: not a row of bench ({words}); write it anew with tpscope.bench"
                ) from error
    counts = {id(row) for row in counted(raw for raw, _ in cases)}
    kept = tuple(case for raw, case in cases if id(raw) in counts)
    again = [[row for row in same if row.get("milliseconds")] for same in alike(raw for raw, _ in cases)]
    return Rows(kept, tuple(calibration), tuple(_again(same, counts) for same in again if len(same) > 1))


def _again(same: list[dict[str, Any]], counts: set[int]) -> Again:
    times = [
        (row["milliseconds"]["median"], undisturbed(row) if row.get("disturbed") else None, id(row) in counts)
        for row in same
    ]
    return Again(Case.model_validate(same[0]).name, same[0].get("loss") or "", times)


@dataclass(frozen=True)
class Known:
    """A measured case with the trace of the same step."""

    case: Case
    question: Question
    trace: StepTrace


def unmodelled(case: Case) -> str:
    """Why a case has no prediction to be held against; empty if it has."""
    if case.error or case.milliseconds is None:
        return f"not measured: {(case.error or 'no time').splitlines()[-1][:100]}"
    if case.rehearsal:
        return "a rehearsal without a GPU"
    return "compiled: an eager trace does not stand in for it" if case.compiled else ""


def known(case: Case, pool: Pool) -> Known | str:
    """The trace of a case, or why there is none."""
    target = registry.parse(case.stands_for or case.framework)
    asked = question(case.model, Wishes(tp=case.tp, sequence_parallel=case.parallel))
    pool.prepare([target])
    found = traced(asked, target, pool, Step(case.batch, case.sequence))
    if found.trace is None:
        return f"not traced: {found.error.message[:100] if found.error else 'no answer'}"
    if case.loss and found.trace.loss and case.loss != found.trace.loss:
        return f"the loss {case.loss} is not traced ({found.trace.loss} is)"
    return Known(case, asked, found.trace)
