"""One style class tried in plain PyTorch: what crosses the process border, and what a row of the experiment holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Means(StrEnum):
    """What a counterpart is made of, the least first. `control` is wrong on purpose."""

    NOTHING = "nothing"
    STYLE = "style"
    COMBINATION = "combination"
    PATCH = "patch"
    CONTROL = "control"


class Outcome(StrEnum):
    """How two runs compare, or that one raised."""

    EQUAL = "equal"
    DIFFERENT = "different"
    RAISED = "raised"


@dataclass
class Try:
    """One counterpart beside the framework's own style: `text` is the style as PyTorch prints it, `said` what differs.

    `error` is the largest relative error of what was compared, None where there was nothing to compare. A patch has
    its `source`; `lines` counts its lines without docstring and empty ones. `notes`: what is equal, yet not the same.
    """

    means: Means
    text: str
    outcome: Outcome
    said: str = ""
    error: float | None = None
    source: str = ""
    lines: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass
class Trial:
    """One style class: the scene it ran in, the class itself against the unsharded module, and its counterparts.

    `missing` says why there is nothing else, where the class could not be made here.
    """

    style: str
    scene: str = ""
    ranks: int = 0
    tolerance: float = 0.0
    compared: list[str] = field(default_factory=list)
    own: Try | None = None
    tries: list[Try] = field(default_factory=list)
    shims: list[str] = field(default_factory=list)
    missing: str = ""
