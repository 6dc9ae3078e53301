"""What deriving a plan gave: requests to the process that derives, and its answers. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tpscope.language.answer import to_json
from tpscope.language.sharding import Sharding
from tpscope.language.verdict import Verdict

SCHEMA = "tpscope.plan/1"
REVIEW = "tpscope.plan-check/1"


class Source(StrEnum):
    """Where a plan comes from, in the order in which they are asked: the user's file, our reviewed tables, the plan
    that transformers ships with the model, derivation."""

    CUSTOM = "custom"
    CURATED = "curated"
    SHIPPED = "shipped"
    DERIVED = "derived"


class Kind(StrEnum):
    """What one rule of somebody's plan asks for, whatever the format calls it.

    gathered: a column whose output is gathered again; split: a row whose whole input is split first; experts: a module
    whose output the ranks add up; sum: whole, with gradients added; sequence: whole, on slices of the sequence.
    """

    COLUMN = "column"
    PACKED = "packed column"
    ROW = "row"
    PACKED_ROW = "packed row"
    GATHERED = "gathered column"
    SPLIT = "row with split input"
    LOOKUP = "lookup"
    EXPERTS = "experts"
    SUM = "gradient sum"
    SEQUENCE = "sequence"
    WHOLE = "whole"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Spelled:
    """A rule as it is written: `text` at `line`. `gathers`: its input is a slice of the sequence and is gathered."""

    pattern: str
    kind: Kind
    text: str
    line: int = 0
    gathers: bool = False


@dataclass
class Spelling:
    """A plan as rules of another engine. By region: what costs more (`dearer`), what is left whole (`refused`)."""

    rules: list[Spelled] = field(default_factory=list)
    dearer: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    shipped: list[str] = field(default_factory=list)


@dataclass
class Through:
    """What a framework's own proof says of a written plan (`tpscope prove --custom-plan`)."""

    framework: str
    verdict: Verdict
    sentence: str
    command: str = ""


@dataclass(frozen=True)
class Given:
    """A plan that somebody wrote, to be proven: regions of ours, or rules of another format."""

    source: Source
    origin: str
    plan: Sharding | None = None
    rules: tuple[Spelled, ...] = ()


@dataclass
class Tried:
    """A source that was asked, and what came of it."""

    source: Source
    origin: str
    outcome: str
    taken: bool = False


@dataclass(frozen=True)
class PlanRequest:
    """A small config to probe (or a model type, whose default config is shrunk), and the numbers of ranks.

    `published` is the config in its own sizes, for which the plan's cuts are checked on meta. `sources` are asked in
    this order; `given` has the plans of those that are files. `make`: a user's own module and sample, `path.py:name`.
    `remote_code`: the folder of the model's own Python code. `review`: the one plan of `given` is reviewed.
    `form`: the format of that plan, or the one that the plan is to be written in.
    """

    ranks: tuple[int, ...]
    config: dict[str, Any] | None = None
    model_type: str = ""
    published: dict[str, Any] | None = None
    controls: bool = True
    sources: tuple[Source, ...] = (Source.DERIVED,)
    given: tuple[Given, ...] = ()
    remote_code: str = ""
    make: str = ""
    review: bool = False
    form: str = "tpscope"


@dataclass
class PlanProof:
    """The proof of a plan: loss and every gradient of every rank in float64 against the unsharded model.

    Errors are in units of the tolerance, which is 32 times the measured noise: above 1 is wrong. `dead`: parameters
    whose true gradient is no larger than noise, so that nothing is proven of them. `controls`: the plan broken on
    purpose, and whether that was seen.
    """

    verdict: Verdict
    loss_error: float = 0.0
    gradient_error: float = 0.0
    wrong: dict[str, float] = field(default_factory=dict)
    compared: int = 0
    error: str = ""
    collectives: dict[str, int] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    controls: dict[str, bool] = field(default_factory=dict)


class Severity(StrEnum):
    """wrong: numbers are off, or a rule does nothing. waste: right, and dearer than need be. note: good to know."""

    WRONG = "wrong"
    WASTE = "waste"
    NOTE = "note"


@dataclass
class Finding:
    """One thing that a review found: at which rule, why it is so, and what to write instead. `line` 0: not known."""

    severity: Severity
    what: str
    pattern: str
    why: str
    remedy: str
    line: int = 0


@dataclass
class Cost:
    """What a plan sends in a step, forward, loss and backward: calls and payload bytes, of one layer and of all.

    `scale`: "published" sizes (batch 1, `tokens` tokens, bfloat16), or "small" where they cannot be run on meta.
    """

    source: Source
    scale: str
    tokens: int
    layer_calls: float
    layer_bytes: float
    calls: int
    bytes: int
    kinds: dict[str, int] = field(default_factory=dict)
    why: str = ""


@dataclass
class PlanCase:
    """The plan at one number of ranks. `fraction`: parameters that are cut, of the published sizes where known.

    `classes`: the class of every module that owns weights of a region, by pattern (formats speak of modules).
    `source`: where the plan comes from; `tried`: what was asked, in order.
    """

    tp: int
    plan: Sharding
    proof: PlanProof
    fraction: float
    misfit: str = ""
    classes: dict[str, str] = field(default_factory=dict)
    source: Source = Source.DERIVED
    tried: list[Tried] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    spelling: Spelling | None = None
    through: list[Through] = field(default_factory=list)


@dataclass
class PlanAnswer:
    """What the deriving process answers. `error`: why the model could not be probed at all, and at which step."""

    model_type: str = ""
    architecture: str = ""
    cases: list[PlanCase] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0


@dataclass
class Review:
    """The answer of `tpscope plan --check`: findings worst first, and whether the plan was proven as it stands."""

    file: str
    model: str
    tp: int
    architecture: str
    findings: list[Finding]
    proof: PlanProof | None
    error: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    command: str = ""
    seconds: float = 0.0
    schema: str = REVIEW

    @property
    def bad(self) -> bool:
        """True if something is wrong or wasted, or the review did not come to an end."""
        return bool(self.error) or any(item.severity is not Severity.NOTE for item in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return to_json(self)  # type: ignore[no-any-return]


@dataclass
class Derived:
    """The answer of `tpscope plan`."""

    model: str
    source: str
    tp: int
    answer: PlanAnswer
    environment: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    command: str = ""
    seconds: float = 0.0
    schema: str = SCHEMA

    @property
    def case(self) -> PlanCase | None:
        """The plan, None where the model could not be probed."""
        return next((case for case in self.answer.cases if case.tp == self.tp), None)

    @property
    def bad(self) -> bool:
        """True where there is no plan that was proven and fits, or a framework finds the written one wrong."""
        found = self.case
        if found is None or found.proof.verdict is not Verdict.EQUAL or found.misfit or not found.plan.regions:
            return True
        return any(item.verdict in (Verdict.DIFFERENT, Verdict.CRASHED) for item in found.through)

    def to_json(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return to_json(self)  # type: ignore[no-any-return]
