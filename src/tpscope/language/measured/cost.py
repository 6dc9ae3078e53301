"""What choosing a plan costs a framework."""

from __future__ import annotations

from dataclasses import dataclass, field


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

    `until` is how far the step came; `calls` counts every call of a function of the framework's packages in it, so that
    an empty list is not an empty watch. `others` are functions of the same files that neither choice nor application
    entered: what they left in the model to run in every step.
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
    application on meta, and one forward and backward of the model shrunk to two layers, on the CPU, unsharded.

    `raised` has the ways on which the framework raised instead of choosing, each with what it raised.
    """

    level: str
    levels: list[LevelCost]
    build: Times
    apply: Times
    step: Times
    again: Again
    raised: dict[str, str] = field(default_factory=dict)
