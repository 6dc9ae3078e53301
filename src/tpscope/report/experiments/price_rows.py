"""The rows of results/price.jsonl: cells of the performance prediction matrix."""

from __future__ import annotations

from dataclasses import dataclass

from tpscope.price.matrix import Cell
from tpscope.report.experiments.rows import Measured


@dataclass(kw_only=True)
class Price(Measured):
    """One model at one size on one machine."""

    cell: Cell
    row: str = "price"
