"""A decoder layer as it ran, module by module."""

from __future__ import annotations

from dataclasses import dataclass, field


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
