"""The answer of `tpscope migrate`: schema `tpscope.migrate/1`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tpscope.language.answer import TrailLine, to_json

SCHEMA = "tpscope.migrate/1"


class Verdict(StrEnum):
    """What became of a field, best first.

    exact: same name and value, or it says what the target does anyway. renamed: same value under another name.
    derived: computed, equal in meaning. approximated: the reason names the difference. dropped: the target has nothing
    like it. needs you: the target needs a decision or a number that the file does not have.
    """

    EXACT = "exact"
    RENAMED = "renamed"
    DERIVED = "derived"
    APPROXIMATED = "approximated"
    DROPPED = "dropped"
    NEEDS_YOU = "needs you"

    @property
    def kept(self) -> bool:
        """True if the target does the same."""
        return self in (Verdict.EXACT, Verdict.RENAMED, Verdict.DERIVED)


class Standing(StrEnum):
    """How a check of the output ended. `told` is worth knowing and no failure; `warning` is what the target is known to
    do wrong with this file."""

    OK = "ok"
    TOLD = "told"
    WARNING = "warning"
    FAILED = "failed"
    UNCHECKED = "unchecked"


@dataclass
class Field:
    """One field. `source` and `target` are dotted paths; "" for a source is its framework's default, written out.

    `line` is where the source stands in the input, 0 for a default. `evidence` are lines of both frameworks' source.
    """

    source: str
    target: str
    verdict: Verdict
    reason: str = ""
    evidence: list[TrailLine] = field(default_factory=list)
    source_value: Any = None
    target_value: Any = None
    line: int = 0


@dataclass
class Unknown:
    """A key of the input that no row of the mapping has, and the known keys that it is closest to."""

    key: str
    closest: list[str]
    line: int = 0


@dataclass
class Check:
    """One thing that was looked at in the output, and how it ended. `source` and `target` are the two sides' values."""

    name: str
    standing: Standing
    sentence: str = ""
    source: Any = None
    target: Any = None
    evidence: list[TrailLine] = field(default_factory=list)


@dataclass
class Migration:
    """What became of one file. `output` is the YAML that was made, `written` where it stands ("" for nowhere)."""

    config: str
    source: str
    target: str
    world: int
    fields: list[Field] = field(default_factory=list)
    unknown: list[Unknown] = field(default_factory=list)
    output: str = ""
    written: str = ""
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shims: list[str] = field(default_factory=list)
    command: str = ""
    seconds: float = 0.0
    schema: str = SCHEMA

    @property
    def lossless(self) -> bool:
        """True if every field is kept, every key known and no check failed: what `--strict` asks for."""
        failed = any(check.standing is Standing.FAILED for check in self.checks)
        return all(item.verdict.kept for item in self.fields) and not self.unknown and not failed

    def count(self, verdict: Verdict) -> int:
        """How many fields have a verdict."""
        return sum(item.verdict is verdict for item in self.fields)

    def to_json(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        return to_json(self)
