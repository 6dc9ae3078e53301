"""One edge case under one framework: what a comparison and a proof say of it, and what that makes of the framework."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from tpscope.language.answer import Failure
from tpscope.language.verdict import Status, Verdict
from tpscope.report.experiments.rows import Measured
from tpscope.report.prove_rows import Cell


class Treated(StrEnum):
    """How a framework treats an edge case, best first."""

    EQUAL = "sharded and equal"
    REFUSED = "refused with a reason"
    TOLD = "left whole, and said so"
    CRASHED = "crashed"
    WHOLE = "silently left whole"
    DIFFERENT = "silently different"
    ORDINARY = "ends as an ordinary model does"
    OPEN = "cannot be told"


BAD = (Treated.CRASHED, Treated.WHOLE, Treated.DIFFERENT)


@dataclass(kw_only=True)
class Edge(Measured):
    """`status` to `raised` are the comparison's, at the published size; `proof` is the proof-sized model's.

    `warned` is the first warning that speaks of a plan or of tensor parallelism. `stopped` is what ended the proof.
    `control` marks an ordinary model, beside which the edge cases are judged.
    """

    edge: str
    says: str
    model: str
    tp: int
    control: bool = False
    status: Status = Status.OK
    level: str = ""
    rules: int = 0
    sharded_fraction: float = 0.0
    ignored: list[str] = field(default_factory=list)
    warned: str = ""
    raised: Failure | None = None
    proof: Cell | None = None
    stopped: Failure | None = None
    row: str = "edge"


def treated(row: Edge) -> Treated:
    """What became of a case by itself. The proof speaks of training, the comparison of the size that was published."""
    verdict = row.proof.verdict if row.proof else Verdict.INCONCLUSIVE
    if row.failed:
        return Treated.OPEN
    if row.status == Status.REFUSED or verdict == Verdict.REFUSED:
        return Treated.REFUSED
    if row.status == Status.CRASHED or verdict == Verdict.CRASHED:
        return Treated.CRASHED
    if row.status == Status.OK and row.sharded_fraction == 0:
        return Treated.TOLD if row.warned else Treated.WHOLE
    if verdict == Verdict.DIFFERENT:
        return Treated.DIFFERENT
    return Treated.EQUAL if row.status == Status.OK and verdict == Verdict.EQUAL else Treated.OPEN


def because(row: Edge) -> Failure | None:
    """What the framework raised, in the comparison or in the proof, if that decided."""
    kind = treated(row)
    if kind not in (Treated.REFUSED, Treated.CRASHED):
        return None
    if row.raised and row.status in (Status.REFUSED, Status.CRASHED):
        return row.raised
    return row.stopped


class Edges:
    """The edge cases of all frameworks, each judged beside the ordinary model under the same framework."""

    def __init__(self, rows: Iterable[Edge]):
        kept = list(rows)
        self.rows = [row for row in kept if not row.control]
        self.controls = {row.framework: row for row in kept if row.control}

    def of(self, framework: str) -> list[Edge]:
        """The edge cases of one framework."""
        return [row for row in self.rows if row.framework == framework]

    def kind(self, row: Edge) -> Treated:
        """How a case is treated; one that ends badly in the very way in which the ordinary model ends is told so."""
        found, plain = treated(row), self.controls.get(row.framework)
        if plain is None or row.control or found not in BAD or found != treated(plain):
            return found
        return Treated.ORDINARY if _end(row) == _end(plain) else found


def _end(row: Edge) -> tuple[object, ...]:
    """What a bad end is known by: what was raised and where, else the causes that the proof named."""
    if error := because(row):
        where = (error.where.path, error.where.line) if error.where else ()
        return (error.kind, *where)
    return tuple(sorted(row.proof.causes)) if row.proof else ()
