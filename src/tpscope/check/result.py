"""The answer of `tpscope check`: schema `tpscope.check/1`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tpscope.language.answer import TrailLine, to_json
from tpscope.language.proof import ProofAnswer
from tpscope.language.verdict import Verdict

SCHEMA = "tpscope.check/1"


class Severity(StrEnum):
    """How much a finding matters, worst first.

    error: it will not run, or trains another model. warning: a line of the file does nothing, or is doubtful.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Runs(StrEnum):
    """Would the framework run this file?"""

    YES = "would run"
    NO = "would not run"
    UNKNOWN = "not known here"


@dataclass
class Finding:
    """One thing about the file. `where` is file:line of the key that it is about, `remedy` what to change.

    `stops` is true where the framework would end on it. `evidence` are lines of the framework's own code.
    """

    severity: Severity
    what: str
    where: str
    why: str
    remedy: str
    evidence: list[TrailLine] = field(default_factory=list)
    key: str = ""
    source: str = ""
    stops: bool = False


@dataclass
class Check:
    """What was found of one file under one framework, worst first.

    `verdict` is that of the combination that the file asks for; None where nothing is sharded over tp, so that there
    was nothing to prove. `scenarios` are those that the file implies, `tried` what was run to find the remedies.
    """

    config: str
    framework: str
    model: str
    world: int
    layout: dict[str, Any]
    runs: Runs = Runs.UNKNOWN
    verdict: Verdict | None = None
    findings: list[Finding] = field(default_factory=list)
    cases: list[ProofAnswer] = field(default_factory=list)
    scenarios: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    shims: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    command: str = ""
    seconds: float = 0.0
    schema: str = SCHEMA

    @property
    def bad(self) -> bool:
        """True if there is something to change: an error, a warning, or a verdict other than equal."""
        alarming = any(finding.severity is not Severity.NOTE for finding in self.findings)
        return alarming or self.verdict in (Verdict.DIFFERENT, Verdict.CRASHED, Verdict.REFUSED)

    def to_json(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return to_json(self)
