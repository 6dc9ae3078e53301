"""The answer of `tpscope prove`: schema `tpscope.prove/1`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tpscope.language.answer import to_json
from tpscope.language.proof import ProofAnswer
from tpscope.language.verdict import Verdict

SCHEMA = "tpscope.prove/1"
BAD = (Verdict.DIFFERENT, Verdict.CRASHED)


@dataclass
class Proofs:
    """One case for each model, scenario, tp and framework, in that order. `interrupted`: cases not reached."""

    cases: list[ProofAnswer]
    notes: list[str] = field(default_factory=list)
    interrupted: int = 0
    schema: str = SCHEMA

    @property
    def bad(self) -> bool:
        """True if any case is different or crashed."""
        return any(case.verdict in BAD for case in self.cases)

    def case(self, framework: str, model: str = "", scenario: str = "plain", tp: int = 0) -> ProofAnswer:
        """The first case of a framework, and of a model and a tp size where they are named. Raises KeyError."""
        for case in self.cases:
            asked = (case.framework, case.scenario) == (framework, scenario)
            if asked and model in ("", case.model) and tp in (0, case.tp):
                return case
        raise KeyError(f"no case of {framework}, {model or 'any model'}, {scenario}")

    def counts(self) -> dict[Verdict, int]:
        """How many cases came to each verdict, those that occur."""
        verdicts = [case.verdict for case in self.cases]
        return {verdict: verdicts.count(verdict) for verdict in Verdict if verdict in verdicts}

    def to_json(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return to_json(self)
