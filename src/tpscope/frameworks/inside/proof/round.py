"""One run of a sharded model to one depth, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from tpscope.frameworks.inside.proof.facing import Facing
from tpscope.frameworks.inside.proof.record import Records
from tpscope.frameworks.inside.proof.reference import Grads
from tpscope.language.proof import Depth, ParameterProof


@dataclass
class Round:
    """The rows, the loss and the logits, and what modules saw where they were watched."""

    depth: Depth
    rows: list[ParameterProof] = field(default_factory=list)
    loss_error: float | None = None
    forward_error: float | None = None
    forward_wrong: bool = False
    norm: float | None = None
    records: list[Records] = field(default_factory=list)
    grads: Grads = field(default_factory=dict)
    facing: Facing | None = None
    trained: nn.Module | None = None
    untied: bool = False
    trains_otherwise: list[str] = field(default_factory=list)

    @property
    def different(self) -> list[str]:
        """Names of the parameters that are not what the whole model has."""
        return [row.name for row in self.rows if not row.equal]
