"""The answer of one framework to one comparison request: what crosses the process border as JSON.

Written by `frameworks/inside` with the standard library, read by the parent with pydantic over these same classes.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import Any

from tpscope.language.layout import Layout, Lora
from tpscope.language.verdict import Reduction, Status


@dataclass
class Request:
    """What is asked of a framework: a published config, a layout, and what the user wants besides."""

    framework: str
    version: str
    variant: str
    model: str
    config: dict[str, Any]
    layout: Layout
    lora: Lora | None = None
    custom_plan: str | None = None
    remote_code: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    roots: list[str] = field(default_factory=list)


@dataclass
class TrailLine:
    """One source line that ran while the plan was chosen or applied. `path` is relative to the overlay."""

    path: str
    line: int
    symbol: str
    text: str


@dataclass
class Step:
    """One source that selection may ask, when it asks it, and what came of it for this model."""

    level: str
    tried_when: str
    outcome: str


@dataclass
class Selection:
    """Which level gave the plan, what was tried, and the lines that ran."""

    level: str = ""
    function: str = ""
    order: list[Step] = field(default_factory=list)
    experiments: list[dict[str, str]] = field(default_factory=list)
    trail: list[TrailLine] = field(default_factory=list)


@dataclass
class PlanRow:
    """One rule of the plan in normal form, with the placements that were observed after it was applied."""

    pattern: str
    style: str
    kind: str
    known: bool
    placements: dict[str, str]
    input: str | None
    output: str | None
    forward: list[str]
    backward: list[str]
    gradient: str
    matched: int


@dataclass
class ParameterRow:
    """One parameter: its global shape, where it is on the tp axis, what a rank holds, and its gradient over tp.

    `gradient` is what the plan marks; `gradient_loop` what was then seen to happen to it before the optimizer step.
    `mesh` has the placement on every axis of the mesh where the framework sharded over more than tp.
    """

    name: str
    shape: list[int]
    placement: str
    local_shape: list[int]
    gradient: Reduction = Reduction.NONE
    gradient_loop: Reduction = Reduction.UNOBSERVED
    rule: str | None = None
    trainable: bool = True
    mesh: dict[str, str] = field(default_factory=dict)


@dataclass
class Mesh:
    """The mesh that the framework built: axis names and sizes in its order, and flattened axes."""

    axes: dict[str, int] = field(default_factory=dict)
    flattened: dict[str, list[str]] = field(default_factory=dict)
    built_by: str = ""


@dataclass
class Head:
    """What happens to the logits, by the plan and by the loss that the framework uses by default; and to a tied head.

    `tied`: the published model ties head and embedding. `tied_after`: so it is after sharding and loading, `retied_at`
    the line that tied it again if sharding had untied it. `tied_after_step`: so it is after a forward and a backward.
    """

    module: str = ""
    style: str | None = None
    plan_output: str | None = None
    gathered_by: str | None = None
    tied: bool = False
    tied_after: bool | None = None
    loss: str | None = None
    loss_gathers: bool | None = None
    where: TrailLine | None = None
    retied_at: TrailLine | None = None
    tied_after_step: bool | None = None


@dataclass
class LoraAnswer:
    """What LoRA became: adapter parameters, which of them train, and by whose code."""

    requested: bool = False
    applied_by: str | None = None
    modules: int = 0
    styles: list[str] = field(default_factory=list)
    note: str | None = None


@dataclass
class LogLine:
    """One message that the framework logged."""

    level: str
    logger: str
    message: str


@dataclass
class Failure:
    """Why a column has no plan: the framework's own words and the line that raised them."""

    kind: str
    message: str
    phase: str
    where: TrailLine | None = None
    traceback: str = ""


@dataclass
class FrameworkAnswer:
    """One column of `tpscope.compare/1`."""

    id: str
    status: Status = Status.OK
    error: Failure | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    model_class: str = ""
    selection: Selection = field(default_factory=Selection)
    plan: list[PlanRow] = field(default_factory=list)
    parameters: list[ParameterRow] = field(default_factory=list)
    total_parameters: int = 0
    sharded_fraction: float = 0.0
    unmatched: list[str] = field(default_factory=list)
    ignored: list[dict[str, str]] = field(default_factory=list)
    head: Head = field(default_factory=Head)
    mesh: Mesh = field(default_factory=Mesh)
    lora: LoraAnswer = field(default_factory=LoraAnswer)
    forward: dict[str, Any] = field(default_factory=dict)
    loop_error: Failure | None = None
    gradient_trail: list[TrailLine] = field(default_factory=list)
    log: list[LogLine] = field(default_factory=list)
    shims: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def to_json(value: Any) -> Any:
    """A dataclass tree as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value
