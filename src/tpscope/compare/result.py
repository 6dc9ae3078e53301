"""The answer of `tpscope compare`: schema `tpscope.compare/1`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tpscope.language.answer import FrameworkAnswer
from tpscope.language.verdict import Severity

SCHEMA = "tpscope.compare/1"


@dataclass
class Difference:
    """One thing in which columns differ, or in which one of them does what its user would not expect.

    `values` holds every column's own, by framework id; `meaning` is one plain sentence.
    """

    subject: str
    values: dict[str, str]
    meaning: str
    severity: Severity


@dataclass
class Model:
    """The model that was asked about."""

    name: str
    architecture: str
    model_type: str
    source: str
    status: str
    config: dict[str, Any]


@dataclass
class Comparison:
    """All columns, and their differences, worst first."""

    model: Model
    layout: dict[str, Any]
    frameworks: list[FrameworkAnswer]
    differences: list[Difference]
    lora: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    schema: str = SCHEMA

    def column(self, identifier: str) -> FrameworkAnswer:
        """The column of one framework."""
        return next(answer for answer in self.frameworks if answer.id == identifier)
