"""The trace of one training step: what crosses the process border, before anything is scaled or priced."""

from __future__ import annotations

from dataclasses import dataclass, field

from tpscope.language.answer import Failure, TrailLine


@dataclass
class Operation:
    """One kind of kernel: an operator on given shapes in one module and phase, run `count` times a step.

    `module` has `*` for layer numbers; `shapes` are the shapes of its tensor arguments, `read` and `written` bytes of
    one call, `flops` of one call (a multiply-add counts two), 0 where the operator does no matrix product. `kernel` is
    False for one tensor of an operator that works on a list of them, which is launched once for all.
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
class Moved:
    """Collectives of the decoder layers in one phase: how many were issued, and how many different things they moved.

    Results that are only added to each other are one thing: the sum could have been reduced instead. A tensor that is
    gathered several times is one thing. `modules` are those whose collectives shared one with another.
    """

    phase: str
    kind: str
    issued: int
    distinct: int
    modules: list[str] = field(default_factory=list)


@dataclass
class Point:
    """What was alive when something was allocated. `layer` says where among the layers, in words that hold at every
    number of layers: "first 0" and "last 0" are the same layer's place in the first and the last period. `held` pairs a
    number in `Memory.names` with bytes."""

    phase: str
    layer: str
    module: str
    made: str
    held: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Memory:
    """Live bytes of one rank over a step; allocations are rounded up as the CUDA allocator rounds them. `names` are
    pairs of a category and the module that made it."""

    names: list[tuple[str, str]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    after: dict[str, int] = field(default_factory=dict)


@dataclass
class StepTrace:
    """One step of one framework at one setting, traced at full width.

    By phase: `dispatches` counts operators on DTensor, `views` operators that launch no kernel, `calls` modules that
    were called. `asked` counts the values that the code asked of data.
    """

    framework: str
    layers: int = 0
    model_class: str = ""
    head: str = ""
    vocabulary: int = 0
    loss: str = ""
    optimizer: str = ""
    operations: list[Operation] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    dispatches: dict[str, int] = field(default_factory=dict)
    views: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    assumptions: list[str] = field(default_factory=list)
    stopped: Failure | None = None
    seconds: float = 0.0
