"""The rows on models that were cut into pipeline stages."""

from __future__ import annotations

from dataclasses import dataclass, field

from tpscope.language.answer import Failure, TrailLine
from tpscope.report.experiments.rows import Measured


@dataclass
class Placed:
    """Parameters of a stage that differ only in the layer. `numbers` is how many numbers they have in all."""

    name: str
    count: int
    numbers: int
    placement: str


@dataclass
class Stage:
    """One stage: its pipeline rank, what is left of the model in it, its parameters; `whole` counts the model's."""

    rank: int
    index: int
    first: bool
    last: bool
    modules: list[str]
    parameters: list[Placed]
    whole: int
    schedule: str


@dataclass
class Schedule:
    """One name of a schedule: the line that names it as supported (None: torch names it), and what came of it."""

    name: str
    where: TrailLine | None = None
    runs: str = ""
    stages: list[int] = field(default_factory=list)
    error: Failure | None = None


@dataclass(kw_only=True)
class Pipeline(Measured):
    """One model, cut by one framework version."""

    model: str
    pp: int = 2
    tp: int = 2
    schedule: str = "1f1b"
    stages: list[Stage] = field(default_factory=list)
    error: Failure | None = None
    schedules: list[Schedule] = field(default_factory=list)
    row: str = "pipeline"
