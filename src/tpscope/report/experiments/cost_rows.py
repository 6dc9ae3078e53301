"""The rows of question Q1: what the choice of a plan costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from tpscope.report.experiments.rows import Measured


@dataclass
class Times:
    """Microseconds: the median of `count` repetitions, the fastest and the slowest."""

    median: float
    least: float
    most: float
    count: int


@dataclass
class LevelCost:
    """One way to a plan: its level, what was changed to get there, rules of the plan, time, and lines that ran."""

    level: str
    how: str
    rules: int
    times: Times
    lines: int


@dataclass
class Again:
    """What a step of the training loop entered of the functions that choose (`chosen` of them) and apply (`applied`).

    `until` is how far the step came; `calls` counts every call of a function of the framework's packages in it.
    `others` are functions of the same files that neither choice nor application entered.
    """

    until: str
    calls: int
    chosen: int
    applied: int
    chose_again: list[str] = field(default_factory=list)
    applied_again: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


@dataclass
class Costs:
    """What was timed for one model: the choice by every way to a plan, and beside it the construction on meta, the
    application on meta, and one forward and backward of the model shrunk to two layers, on the CPU, unsharded."""

    level: str
    levels: list[LevelCost]
    build: Times
    apply: Times
    step: Times
    again: Again


@dataclass(kw_only=True)
class Cost(Measured):
    """Question Q1: what the choice of a plan costs, for one model. `load` is the machine's before and after."""

    model: str
    tp: int
    load: tuple[float, float] = (0.0, 0.0)
    found: Costs | None = None
    row: str = "cost"
