"""What deriving a plan gave: requests to the process that derives, and its answers. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tpscope.language.answer import to_json
from tpscope.language.sharding import Sharding
from tpscope.language.verdict import Verdict

SCHEMA = "tpscope.plan/1"


@dataclass(frozen=True)
class PlanRequest:
    """A small config to probe (or a model type, whose default config is shrunk), and the numbers of ranks.

    `published` is the config in its own sizes, for which the plan's cuts are checked on meta.
    """

    ranks: tuple[int, ...]
    config: dict[str, Any] | None = None
    model_type: str = ""
    published: dict[str, Any] | None = None
    controls: bool = True


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


@dataclass
class PlanCase:
    """The plan at one number of ranks. `fraction`: parameters that are cut, of the published sizes where known.

    `classes`: the class of every module that owns weights of a region, by pattern (formats speak of modules).
    """

    tp: int
    plan: Sharding
    proof: PlanProof
    fraction: float
    misfit: str = ""
    classes: dict[str, str] = field(default_factory=dict)


@dataclass
class PlanAnswer:
    """What the deriving process answers. `error`: why the model could not be probed at all, and at which step."""

    model_type: str = ""
    architecture: str = ""
    cases: list[PlanCase] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0


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
        """True where there is no plan that was proven and fits."""
        found = self.case
        return found is None or found.proof.verdict is not Verdict.EQUAL or bool(found.misfit) or not found.plan.regions

    def to_json(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return to_json(self)  # type: ignore[no-any-return]
