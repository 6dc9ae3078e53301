"""The trace of one training step at full size: what crosses the process border, before anything is priced."""

from __future__ import annotations

from dataclasses import dataclass, field

from tpscope.language.answer import Failure, TrailLine


@dataclass
class Operation:
    """One kind of kernel: an operator on given shapes in one module and phase, run `count` times a step.

    `module` has `*` for layer numbers; `shapes` are the shapes of its tensor arguments, `read` and `written` bytes of
    one call, `flops` of one call (a multiply-add counts two), 0 where the operator does no matrix product.
    """

    phase: str
    module: str
    name: str
    shapes: list[list[int]]
    dtype: str
    count: int
    flops: int
    read: int
    written: int
    kernel: bool


@dataclass
class Collective:
    """One kind of collective: what is issued `count` times a step in one module and phase.

    `bytes` is the payload of one call: of the tensor that goes in for all_reduce and reduce_scatter, of the one that
    comes out for all_gather. `ranks` is the size of the group, `axis` its name in the mesh.
    """

    phase: str
    kind: str
    axis: str
    module: str
    shape: list[int]
    dtype: str
    bytes: int
    ranks: int
    count: int
    where: TrailLine | None = None


@dataclass
class Peak:
    """The largest sum of live bytes of a phase, by category, and the module that ran when it was reached."""

    phase: str
    bytes: int
    module: str
    by_category: dict[str, int] = field(default_factory=dict)


@dataclass
class Memory:
    """Live bytes of one rank over a step; allocations are rounded up as the CUDA allocator rounds them."""

    peaks: list[Peak] = field(default_factory=list)
    after: dict[str, int] = field(default_factory=dict)


@dataclass
class StepTrace:
    """One step of one framework at one setting, traced at full size. `dispatches` counts operators on DTensor."""

    framework: str
    layers: int = 0
    model_class: str = ""
    loss: str = ""
    optimizer: str = ""
    operations: list[Operation] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    dispatches: dict[str, int] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)
    stopped: Failure | None = None
