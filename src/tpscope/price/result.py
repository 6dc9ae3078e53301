"""The answer of `price`: one column a framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tpscope.compare.result import Model
from tpscope.language.answer import Failure, TrailLine
from tpscope.language.verdict import Status

Standing = Literal["calibrated", "uncalibrated", "extrapolated"]


@dataclass
class Traffic:
    """One kind of collective. `per_layer` is 0 outside decoder layers; `bytes` is the payload of one call, `wire_bytes`
    what a rank sends for one call over a ring."""

    phase: str
    kind: str
    axis: str
    module: str
    per_layer: float
    per_step: int
    bytes: int
    wire_bytes: int
    dtype: str
    ranks: int
    milliseconds: float
    evidence: TrailLine | None = None


@dataclass
class HeadCost:
    """What becomes of the logits: their local shape's dtype and bytes, and who gathers them."""

    logits: str = ""
    gathered_by: str | None = None
    dtype: str = ""
    bytes: int = 0
    where: TrailLine | None = None


@dataclass
class Share:
    """What one module made, of one category."""

    category: str
    module: str
    bytes: int


@dataclass
class Peak:
    """The highest of a phase: where it is reached, and what is alive there."""

    phase: str
    bytes: int
    module: str
    layer: str
    made: str
    by_category: dict[str, int] = field(default_factory=dict)
    largest: list[Share] = field(default_factory=list)


@dataclass
class MemoryCost:
    """The peak of a step on one rank, what is alive at it, the peak of each phase, and what is left after each."""

    peak_bytes: int = 0
    phase: str = ""
    by_category: dict[str, int] = field(default_factory=dict)
    phases: list[Peak] = field(default_factory=list)
    after: dict[str, int] = field(default_factory=dict)


@dataclass
class Part:
    """One part of the step time on the GPU, or the CPU time beside it, in milliseconds by phase."""

    name: str
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def ms(self) -> float:
        """Over all phases."""
        return sum(self.phases.values())


@dataclass
class TimeCost:
    """Step time and what it is made of. `bound_by` names what each phase waits for."""

    ms: float = 0.0
    parts: list[Part] = field(default_factory=list)
    bound_by: dict[str, str] = field(default_factory=dict)
    status: Standing = "uncalibrated"
    tokens_per_second: float = 0.0
    mfu: float = 0.0


@dataclass
class Waste:
    """Collectives of activations of one phase and kind in a decoder layer: issued, and how many different things they
    move. `modules` are those that could have shared one. `sentence` says it where the two differ."""

    phase: str
    kind: str
    issued: float
    needed: float
    modules: list[str]
    sentence: str = ""


@dataclass
class Saved:
    """Activations at the peak with and without a setting."""

    bytes: int
    without_bytes: int
    sentence: str


@dataclass
class Stage:
    """One pipeline rank: its layers and what else it has; milliseconds of one micro-batch; its peak, and how many
    forwards of its stages wait for their backward at most."""

    rank: int
    layers: list[int]
    others: list[str]
    milliseconds: float
    peak_bytes: int
    peak_phase: str
    in_flight: int


@dataclass
class Pipeline:
    """A step in stages: the schedule, the ranks that are slowest and fullest, and the part of the step in which the
    slowest has nothing to do."""

    schedule: str
    micro_batches: int
    stages_per_rank: int
    slowest: int
    fullest: int
    bubble: float
    stages: list[Stage] = field(default_factory=list)


@dataclass
class Priced:
    """One framework's column. `fits` is None where memory could not be told."""

    id: str
    status: Status = Status.OK
    error: Failure | None = None
    model_class: str = ""
    loss: str = ""
    optimizer: str = ""
    layers: int = 0
    assumptions: list[str] = field(default_factory=list)
    collectives: list[Traffic] = field(default_factory=list)
    waste: list[Waste] = field(default_factory=list)
    head: HeadCost = field(default_factory=HeadCost)
    memory: MemoryCost = field(default_factory=MemoryCost)
    flops: int = 0
    time: TimeCost = field(default_factory=TimeCost)
    fits: bool | None = None
    smallest_tp: int | None = None
    sequence_parallel: Saved | None = None
    pipeline: Pipeline | None = None
    asked_of_data: dict[str, int] = field(default_factory=dict)
    shims: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Prices:
    """`tpscope.price/1`."""

    model: Model
    layout: dict[str, Any]
    batch: int
    sequence: int
    hardware: str
    frameworks: list[Priced] = field(default_factory=list)
    schema: str = "tpscope.price/1"

    @property
    def bad(self) -> bool:
        """True if a column does not fit."""
        return any(column.fits is False for column in self.frameworks)
