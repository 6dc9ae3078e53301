"""The rows of question Q1: what the choice of a plan costs."""

from __future__ import annotations

from dataclasses import dataclass

from tpscope.language.measured.cost import Costs
from tpscope.report.experiments.rows import Measured


@dataclass(kw_only=True)
class Cost(Measured):
    """Question Q1: what the choice of a plan costs, for one model. `load` is the machine's before and after."""

    model: str
    tp: int
    load: tuple[float, float] = (0.0, 0.0)
    found: Costs | None = None
    row: str = "cost"
