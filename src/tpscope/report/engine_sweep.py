"""tpscope's own engine on the catalog, in every scenario of prove, at tp 2 and 4, into results/engine.jsonl.

python -m tpscope.report.engine_sweep                               all of it
python -m tpscope.report.engine_sweep --tp 2 --models llama-3.1-8b  a part; other rows stay

Every cell is written when it is there, and answers are kept by content, so that a sweep that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console

from tpscope.errors import UserError
from tpscope.frameworks import registry
from tpscope.frameworks.world import Worlds
from tpscope.language.verdict import Verdict
from tpscope.models import catalog
from tpscope.models.read import read as read_model
from tpscope.prove import run, scenarios
from tpscope.prove.run import Options
from tpscope.report import prove_rows
from tpscope.report.prove_rows import Cell
from tpscope.report.rows import line
from tpscope.report.sweep import ROOT, stamp

ROWS = Path("results/engine.jsonl")
OWN = "tpscope@0.1.0"
SECONDS = 120.0
# What the engine or the model has no such thing for; the sentence says which.
ABSENT = (Verdict.UNSUPPORTED, Verdict.REFUSED)
_CELL = TypeAdapter(Cell)


def read(root: Path) -> list[Cell]:
    """The recorded cells; none where nothing was recorded."""
    path = root / ROWS
    return [_CELL.validate_python(json.loads(text)) for text in path.read_text().splitlines()] if path.is_file() else []


def write(root: Path, cells: Sequence[Cell]) -> None:
    """All cells, by model, number of ranks and scenario."""
    ways = list(scenarios.TABLE)
    rows = sorted(cells, key=lambda cell: (cell.model, cell.tp, ways.index(cell.scenario)))
    partial = (root / ROWS).with_suffix(".partial")
    partial.write_text("".join(f"{line(row)}\n" for row in rows), encoding="utf-8")
    partial.replace(root / ROWS)


def sweep(root: Path, models: Sequence[str], ways: Sequence[str], tps: Sequence[int], console: Console) -> None:
    """Prove all cells and record them, model by model."""
    target = registry.parse(OWN)
    parsed = [scenarios.parse(name) for name in ways]
    with Worlds() as worlds:
        for at, name in enumerate(models):
            found: list[Cell] = []
            for case in run.matrix([read_model(name)[0]], [target], parsed, tps):
                (answer,) = run.run([case], Options(seconds=SECONDS), worlds=worlds).cases
                made = stamp("")
                cell = prove_rows.cell(answer, case.model, case.small.config)
                found.append(replace(cell, commit=made["commit"], date=made["date"]))
            new = {(cell.model, cell.tp, cell.scenario) for cell in found}
            write(root, [*found, *(c for c in read(root) if (c.model, c.tp, c.scenario) not in new)])
            console.print(f"{at + 1}/{len(models)} {name}: {counted(found)}", highlight=False, soft_wrap=True)


def counted(cells: Sequence[Cell]) -> str:
    """How many of which verdict, and which cells are neither equal nor absent."""
    numbers = Counter(cell.verdict.value for cell in cells)
    said = ", ".join(f"{count} {verdict}" for verdict, count in numbers.most_common())
    bad = [f"{c.model} {c.scenario} tp={c.tp}" for c in cells if c.verdict not in (Verdict.EQUAL, *ABSENT)]
    return said + (f" ({', '.join(bad)})" if bad else "")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the sweep or part of it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tpscope.report.engine_sweep", description=__doc__.split("\n")[0])
    parser.add_argument("--models", help="as in llama-3.1-8b,qwen3-8b; else the whole catalog")
    parser.add_argument("--scenarios", default=",".join(scenarios.TABLE), help="ways to train")
    parser.add_argument("--tp", default="2,4", help="numbers of ranks")
    asked = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        models = asked.models.split(",") if asked.models else catalog.names()
        sweep(root, models, asked.scenarios.split(","), [int(tp) for tp in asked.tp.split(",")], console)
    except UserError as error:
        console.print(f"tpscope: {error}", markup=False)
        return error.exit_code
    print(counted(read(root)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
