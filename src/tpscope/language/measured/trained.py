"""What a training YAML makes of the optimizer, the learning rate and the batch, as the framework built them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Share:
    """What one parameter gets of the optimizer: its weight decay, and its rate as a multiple of the schedule's."""

    decay: float
    rate: float = 1.0


@dataclass
class Trained:
    """`optimizer` is the class that was built, `arguments` its settings by name, but for those that parameters have
    each for itself. `shares` has those, by parameter. `rates[step]` is the schedule's learning rate before a step.
    `samples` are those of one optimizer step over all data ranks, None where the framework did not say.
    """

    optimizer: str
    arguments: dict[str, Any] = field(default_factory=dict)
    shares: dict[str, Share] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    samples: int | None = None
