"""One edge case under one framework: what a comparison and a proof say of it, and what that makes of the framework."""

from __future__ import annotations

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
    OPEN = "cannot be told"


BAD = (Treated.CRASHED, Treated.WHOLE, Treated.DIFFERENT)


@dataclass(kw_only=True)
class Edge(Measured):
    """`status` to `raised` are the comparison's, at the published size; `proof` is the proof-sized model's.

    `warned` is the first warning that speaks of a plan or of tensor parallelism. `stopped` is what ended the proof.
    """

    edge: str
    says: str
    model: str
    tp: int
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
    """What became of an edge case. The proof speaks of training, the comparison of the size that was published."""
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
