"""Predicted against measured, case by case."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from statistics import median

from tpscope.compare.run import Pool
from tpscope.price.cost import PHASES, parts_of, queued
from tpscope.price.hardware import Machine
from tpscope.price.measured import Case, Known, known, unmodelled
from tpscope.price.memory import memory_cost

# Strategies whose measured times are closer than this have no order worth preserving.
_APART = 0.05


@dataclass
class Held:
    """One case: measured, predicted, and the relative error of each; `used` if a machine was calibrated on it."""

    case: str
    group: str
    used: bool
    measured_ms: float
    predicted_ms: float
    time_error: float
    measured_bytes: int = 0
    predicted_bytes: int = 0
    memory_error: float | None = None
    low_ms: float = 0.0
    high_ms: float = 0.0
    bound_by: str = ""


@dataclass
class LeftOut:
    """A case without a prediction of its own, and why; `measured_ms` where it was measured."""

    case: str
    loss: str
    why: str
    compiled: bool = False
    measured_ms: float | None = None
    measured_bytes: int = 0


@dataclass
class Accuracy:
    """What some cases come to. `pairs` differ by more than 5 % as measured; `ordered` of them are predicted in that
    order. `apart` are those of them whose repeats do not overlap, `apart_ordered` so many of those."""

    cases: int = 0
    median_time_error: float | None = None
    worst_time_error: float | None = None
    median_memory_error: float | None = None
    worst_memory_error: float | None = None
    pairs: int = 0
    ordered: int = 0
    apart: int = 0
    apart_ordered: int = 0


@dataclass
class Accuracies:
    """`tpscope.price-check/1`. `accuracy` is of the cases that were not used for calibration."""

    hardware: str
    status: str
    held: list[Held] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    accuracy: Accuracy = field(default_factory=Accuracy)
    calibrated_on: Accuracy = field(default_factory=Accuracy)
    schema: str = "tpscope.price-check/1"


def check(cases: tuple[Case, ...], machine: Machine, name: str, pool: Pool) -> Accuracies:
    """Trace what was measured and hold the two against each other."""
    result = Accuracies(name, "calibrated" if machine.calibrated else "uncalibrated")
    used = set(machine.calibrated.rows) if machine.calibrated else set()
    for case in cases:
        why = unmodelled(case)
        found = why or known(case, pool)
        if isinstance(found, str):
            result.left_out.append(_left_out(case, found))
        else:
            result.held.append(compared(found, machine, identity(case) in used))
    result.accuracy = accuracy([item for item in result.held if not item.used])
    result.calibrated_on = accuracy([item for item in result.held if item.used])
    return result


def _left_out(case: Case, why: str) -> LeftOut:
    if case.milliseconds is None:
        return LeftOut(case.name, case.loss, why, case.compiled)
    return LeftOut(case.name, case.loss, why, case.compiled, case.milliseconds.median, case.peak)


def identity(case: Case) -> str:
    """A row by what names it: its case, its place in the run and its date."""
    return f"{case.name}, order {case.order}, {case.date}"


def _phases(case: Case) -> tuple[str, ...]:
    return PHASES if case.scope == "step" else PHASES[:-1]


def predicted(item: Known, machine: Machine) -> tuple[float, int]:
    """Milliseconds and peak bytes of the scope that was measured."""
    phases = _phases(item.case)
    seconds, _ = queued(parts_of(item.trace, machine, item.question.layout), phases)
    peaks = [peak for peak in memory_cost(item.trace.memory).phases if peak.phase in phases]
    without = 0 if item.case.scope == "step" else 1
    return seconds * 1e3, max(
        (peak.bytes - without * peak.by_category.get("optimizer", 0) for peak in peaks), default=0
    )


def compared(item: Known, machine: Machine, used: bool) -> Held:
    """One case."""
    assert item.case.milliseconds is not None
    case, measured = item.case, item.case.milliseconds
    ms, peak = predicted(item, machine)
    _, bound = queued(parts_of(item.trace, machine, item.question.layout), _phases(case))
    group = f"{case.model} tp={case.tp} seq={case.sequence} batch={case.batch} {case.scope}"
    return Held(
        case.name, group, used, measured.median, round(ms, 2), ms / measured.median - 1, case.peak, peak,
        peak / case.peak - 1 if case.peak else None, measured.low, measured.high, bound.get("backward", ""),
    )  # fmt: skip


def accuracy(held: list[Held]) -> Accuracy:
    """Medians, worst, and whether the order of the strategies is preserved, in each group of like cases."""
    if not held:
        return Accuracy()
    times = [abs(item.time_error) for item in held]
    memory = [abs(item.memory_error) for item in held if item.memory_error is not None]
    pairs = ordered_pairs(held)
    apart = [(one, other) for one, other in pairs if one.high_ms < other.low_ms or other.high_ms < one.low_ms]
    return Accuracy(
        len(held), median(times), max(times), median(memory) if memory else None, max(memory, default=None),
        len(pairs), _in_order(pairs), len(apart), _in_order(apart),
    )  # fmt: skip


def ordered_pairs(held: list[Held]) -> list[tuple[Held, Held]]:
    """Strategies of one setting whose measured times differ enough to have an order."""
    return [
        (one, other)
        for one, other in combinations(held, 2)
        if one.group == other.group
        and max(one.measured_ms, other.measured_ms) > (1 + _APART) * min(one.measured_ms, other.measured_ms)
    ]


def in_order(one: Held, other: Held) -> bool:
    """Whether two cases are predicted in the order in which they were measured."""
    return (one.measured_ms < other.measured_ms) == (one.predicted_ms < other.predicted_ms)


def _in_order(pairs: list[tuple[Held, Held]]) -> int:
    return sum(in_order(one, other) for one, other in pairs)
