"""results/experiments.jsonl: rows of all experiments, one line each. An experiment replaces only rows of its kinds.

Prices stand in a file of their own; what was measured on GPUs is read from the rows of bench, and never written here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tpscope.report.experiments.bench_rows import Benched, benched
from tpscope.report.experiments.block_rows import Block
from tpscope.report.experiments.complexity_rows import Complexity
from tpscope.report.experiments.cost_rows import Cost
from tpscope.report.experiments.edge_rows import Edge
from tpscope.report.experiments.pipeline_rows import Pipeline
from tpscope.report.experiments.price_rows import Price
from tpscope.report.experiments.rows import Measured
from tpscope.report.experiments.style_rows import Style
from tpscope.report.rows import line

EXPERIMENTS = Path("results/experiments.jsonl")
PRICES = Path("results/price.jsonl")
# Every kind of row, by the word that its `row` field holds. A new experiment adds its own here.
KINDS: dict[str, type[Measured]] = {
    "cost": Cost, "complexity": Complexity, "block": Block, "pipeline": Pipeline, "edge": Edge, "style": Style,
    "price": Price, "bench": Benched,
}  # fmt: skip
_READ: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for name, kind in KINDS.items()}


def read(root: Path) -> list[Measured]:
    """The recorded rows, none if there are no files."""
    return [*_written(root, EXPERIMENTS), *_written(root, PRICES), *benched(root)]


def _written(root: Path, name: Path) -> list[Measured]:
    path = root / name
    if not path.is_file():
        return []
    return [read_line(text) for text in path.read_text(encoding="utf-8").splitlines() if text]


def is_row(text: str) -> bool:
    """True if a line of JSON is the row of an experiment."""
    return json.loads(text)["row"] in _READ


def read_line(text: str) -> Measured:
    """The row of one line of JSON."""
    row: Measured = _READ[json.loads(text)["row"]].validate_json(text)
    return row


def text_of(rows: Iterable[Measured]) -> str:
    """Rows as a file, one line each."""
    return "".join(line(row) + "\n" for row in rows)


def record(root: Path, rows: Iterable[Measured]) -> None:
    """Write these rows in place of the recorded ones of the same kind and framework. All other rows stay."""
    new = list(rows)
    for name in (EXPERIMENTS, PRICES):
        mine = [row for row in new if (PRICES if isinstance(row, Price) else EXPERIMENTS) == name]
        if mine:
            _replace(root, name, mine)


def _replace(root: Path, name: Path, new: list[Measured]) -> None:
    replaced = {(row.row, row.framework) for row in new}
    kept = [row for row in _written(root, name) if (row.row, row.framework) not in replaced]
    order = list(KINDS)
    everything = sorted([*kept, *new], key=lambda row: (order.index(row.row), row.framework))
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text_of(everything), encoding="utf-8")
    partial.replace(path)
