"""The answer of `tpscope recommend`: schema `tpscope.recommend/1`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tpscope.check.result import Check
from tpscope.language.answer import to_json
from tpscope.language.proof import ProofAnswer
from tpscope.language.verdict import Verdict

SCHEMA = "tpscope.recommend/1"
UNMEASURED = "not measured yet (price)"


class Standing(StrEnum):
    """What became of a candidate, best first.

    fit: equal in every way that was asked for, and behind the recommended one. reference: no training framework.
    """

    RECOMMENDED = "recommended"
    FIT = "fit"
    OUT = "out"
    REFERENCE = "reference"


@dataclass(frozen=True)
class KnownBug:
    """An entry of the bug book whose conditions a candidate meets. `shown`: the proof that failed is of its kind."""

    id: str
    package: str
    title: str
    reported: str
    fixed: str
    shown: bool


@dataclass
class Candidate:
    """One framework version at one layout with one set of settings, and the facts about it.

    `ways`: scenarios that the config implies, in the order in which they are proved; `cases` end at the first that is
    not equal. `left_out`: settings that a config would have and this one has not, each with the reason.
    `mends`: what would let it in again. `memory` and `time` are there for `price`.
    """

    framework: str
    layout: dict[str, Any]
    settings: dict[str, Any]
    standing: Standing = Standing.OUT
    reason: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    status: str = ""
    level: str = ""
    sharded_fraction: float | None = None
    ignored: list[dict[str, str]] = field(default_factory=list)
    costs: list[str] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)
    cases: list[ProofAnswer] = field(default_factory=list)
    bugs: list[KnownBug] = field(default_factory=list)
    mends: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    memory: str = UNMEASURED
    time: str = UNMEASURED
    config: str = ""

    @property
    def equal(self) -> bool:
        """True if every way of training that the config implies was proved, and was equal."""
        proved = [case.scenario for case in self.cases if case.verdict is Verdict.EQUAL]
        return bool(self.ways) and proved == self.ways

    @property
    def failed(self) -> ProofAnswer | None:
        """The proof that put it out, None where none did."""
        return next((case for case in self.cases if case.verdict is not Verdict.EQUAL), None)


@dataclass
class Recommendation:
    """The ranking, best first, and the ready config of the winner with what `tpscope check` says of it.

    `rules` say how layouts were chosen and candidates ranked; `changes` what would change the answer. Where nothing is
    recommended, `nearest` names what comes nearest and `mends` what would make it right; `fallback` is a config without
    tensor parallelism that passes the check, "" where none was found.
    """

    model: str
    source: str
    world: int
    asked: dict[str, Any]
    hardware: str = ""
    rules: list[str] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    winner: str | None = None
    config: str = ""
    check: Check | None = None
    changes: list[str] = field(default_factory=list)
    nearest: str = ""
    mends: list[str] = field(default_factory=list)
    fallback: str = ""
    notes: list[str] = field(default_factory=list)
    command: str = ""
    seconds: float = 0.0
    schema: str = SCHEMA

    @property
    def bad(self) -> bool:
        """True if nothing can be recommended."""
        return self.winner is None

    @property
    def chosen(self) -> Candidate | None:
        """The recommended candidate, None where there is none."""
        return next((item for item in self.candidates if item.standing is Standing.RECOMMENDED), None)

    def to_json(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return to_json(self)
