"""The rows on decoder layers as they ran."""

from __future__ import annotations

from dataclasses import dataclass, field

from tpscope.report.experiments.rows import Measured


@dataclass
class Visit:
    """A module of the layer that ran, in the order of entry. `takes` and `gives` name storages: equal is the same.

    Shapes are those of its first input and output on one rank, and of the same module in the unsharded model.
    `before` has collectives of the arithmetic between the module before and this one (of the layer:
    after its last module). Collectives of the backward are those between the gradient of its output and the next such
    gradient; a vector's, as of a norm's weight, are kept apart.
    """

    name: str
    kind: str
    parent: str
    takes: int = 0
    gives: int = 0
    shape_in: list[int] = field(default_factory=list)
    shape_out: list[int] = field(default_factory=list)
    whole_in: list[int] = field(default_factory=list)
    whole_out: list[int] = field(default_factory=list)
    before: dict[str, int] = field(default_factory=dict)
    forward: dict[str, int] = field(default_factory=dict)
    backward: dict[str, int] = field(default_factory=dict)


@dataclass(kw_only=True)
class Block(Measured):
    """One layer of one model. `unobserved` says why there are no visits, where it could not be seen to run."""

    model: str
    tp: int = 2
    sequence_parallel: bool = False
    layer: str = ""
    kind: str = ""
    visits: list[Visit] = field(default_factory=list)
    unobserved: str = ""
    row: str = "block"
