"""The rows of computed complexity: what runs, which settings matter, what must be touched, what is said, how it is
built."""

from __future__ import annotations

from dataclasses import dataclass, field

from tpscope.language.answer import TrailLine
from tpscope.report.experiments.rows import Measured

# What a pattern of design can be.
TABLE, CASCADE, STRATEGY, LOOKUP = "dispatch table", "if/elif cascade", "strategy classes", "attribute lookup"


@dataclass
class Ran:
    """What ran in one phase over all models: lines by file, functions, and the branches of these functions.

    `branches` stand there, by kind; of them `reached` were asked, and `both` went both ways.
    """

    phase: str
    lines: dict[str, int]
    functions: int
    branches: dict[str, int]
    reached: int
    both: int


@dataclass
class Toggled:
    """One setting at one other value, for the models of which the plan or a placement changed, or that raised."""

    name: str
    value: str
    plan: list[str] = field(default_factory=list)
    placements: list[str] = field(default_factory=list)
    raised: dict[str, str] = field(default_factory=dict)
    untried: str = ""

    @property
    def changes(self) -> bool:
        """True if the plan or a placement of some model changed."""
        return bool(self.plan or self.placements)


@dataclass
class Settings:
    """The settings of one class. `steady`: asked twice with nothing changed, the same came out, for every model.

    `stopped`: what statements raised while the settings that they read were noted.
    """

    owner: str
    found_by: str
    steady: bool
    toggled: list[Toggled]
    stopped: list[str] = field(default_factory=list)


@dataclass
class Way:
    """One way to make the framework take another plan: what was touched, and whether each model then had it.

    `editing` says what kind of change it is: a `setting`, a `file` of the model, or `code` that runs before training.
    """

    editing: str
    places: list[str]
    taken: dict[str, bool]
    raised: dict[str, str] = field(default_factory=dict)


@dataclass
class Logged:
    """One log record: when, at which level, by which logger, from which line, what it says, and for which models."""

    phase: str
    level: str
    logger: str
    where: TrailLine
    says: str
    models: list[str] = field(default_factory=list)


@dataclass
class Pattern:
    """A pattern of design that the syntax of the code that ran shows: what it is, what it is called, how large."""

    what: str
    name: str
    size: str
    where: TrailLine


@dataclass(kw_only=True)
class Complexity(Measured):
    """One framework: its models with the level of the plan of each, and everything that was counted."""

    models: dict[str, str] = field(default_factory=dict)
    tp: int = 2
    ran: list[Ran] = field(default_factory=list)
    settings: Settings | None = None
    ways: list[Way] = field(default_factory=list)
    logged: list[Logged] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)
    row: str = "complexity"

    def phase(self, name: str) -> Ran | None:
        """What ran in one phase, None if nothing was recorded of it."""
        return next((one for one in self.ran if one.phase == name), None)
