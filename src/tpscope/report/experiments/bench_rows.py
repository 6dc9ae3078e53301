"""What bench measured on real GPUs, as the study reads it: the rows of results/bench-*.jsonl, one a case."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpscope.language.measured.bench import counted
from tpscope.report.experiments.rows import Measured
from tpscope.report.rows import Provenance

_FILES = "results/bench-*.jsonl"
_NOT = "bench-proofs.jsonl"


@dataclass(kw_only=True)
class Benched(Measured):
    """One case that ran: milliseconds of forward, loss and backward (median, lowest and highest), and the peak of them.

    `ran` is the framework that was timed where it stands for another: transformers as Axolotl pins it.
    """

    model: str
    tp: int
    sequence: int
    ran: str
    loss: str = ""
    parallel: bool = False
    compiled: bool = False
    milliseconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    peak_bytes: int = 0
    row: str = "bench"


def benched(root: Path) -> list[Benched]:
    """Every case that was timed on GPUs, in the order of the files. Rehearsals and cases that raised are left out."""
    files = [path for path in sorted(root.glob(_FILES)) if path.name != _NOT]
    rows = [json.loads(text) for path in files for text in path.read_text(encoding="utf-8").splitlines() if text]
    return [
        _case(row)
        for row in counted(row for row in rows if row["row"] == "case")
        if row["milliseconds"] and not row["rehearsal"] and row["scope"] == "forward-backward"
    ]


def _case(row: dict[str, Any]) -> Benched:
    framework = row["stands_for"] or row["framework"]
    ranks = re.search(r"--nproc-per-node[ =](\d+)", row["command"])
    times = row["milliseconds"]
    return Benched(
        framework=framework,
        # One command for all runs of a framework: its rows are in several files, named one by one there.
        command=f"torchrun --nproc-per-node {ranks[1] if ranks else 1} -m tpscope.bench --with {row['framework']}",
        made=Provenance(row["commit"], row["date"][:10], {"device": row["hardware"]}),
        packages={name: version for name, version in row["packages"].items() if version},
        model=row["model"], tp=row["layout"]["tp"], sequence=row["sequence"], ran=row["framework"], loss=row["loss"],
        parallel=row["layout"]["sequence_parallel"], compiled=row["compiled"],
        milliseconds=(times["median"], times["low"], times["high"]), peak_bytes=row["memory"]["peak_bytes"],
    )  # fmt: skip
