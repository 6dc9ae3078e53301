"""One pipeline stage of a step, traced: what crosses the process border, before anything is scheduled or priced."""

from __future__ import annotations

from dataclasses import dataclass, field

from tpscope.language.answer import Failure
from tpscope.language.measured.price import StepTrace


@dataclass
class StageTrace:
    """One stage: two micro-batches one after the other, which differ where weights are gathered and gradients are first
    made. `other` stands for all but the first, and goes on with what ends the step: phases `reduce` and `step`.

    `like` are the numbers of the stages that it stands for, itself among them: of as many layers of the same kinds in
    the same place. Bytes are of one rank and one micro-batch: `received` and `sent` between stages, `saved` what the
    forward leaves alive until its backward, `kept` what the schedule keeps of the output until the step ends.
    """

    index: int
    like: list[int] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    first: StepTrace | None = None
    other: StepTrace | None = None
    received: int = 0
    sent: int = 0
    saved: int = 0
    kept: int = 0
    error: Failure | None = None


@dataclass
class Stages:
    """All stages of a model: how many of them each pipeline rank has, the object that schedules them."""

    ranks: int
    total: int
    schedule: str = ""
    per_rank: int = 1
    traced: list[StageTrace] = field(default_factory=list)
