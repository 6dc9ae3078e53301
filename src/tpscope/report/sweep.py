"""The first half of `make sweep`: the catalog compared under every framework version that tpscope knows, into results/.

Also times the commands that users wait for, as whole processes. `report/pages.py` makes docs/matrix.md of it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from tpscope.compare.ask import Wishes, question
from tpscope.compare.run import Pool, compare
from tpscope.frameworks import registry
from tpscope.language.answer import FrameworkAnswer
from tpscope.language.verdict import Severity
from tpscope.models import catalog
from tpscope.render.markdown import table
from tpscope.render.terminal import fraction

ROOT = Path(__file__).resolve().parents[3]
RESULTS = Path("results/compare.jsonl")
MATRIX = Path("docs/matrix.md")
TIMED = (
    ["llama-3.1-8b", "--tp", "2", "--with", "nemo@0.7.0", "--with", "axolotl@0.19.0", "--fresh"],
    ["llama-3.1-70b", "--tp", "8", "--with", "nemo@0.7.0", "--with", "axolotl@0.19.0", "--fresh"],
    ["llama-3.1-8b", "--tp", "2", "--with", "nemo@0.7.0", "--with", "axolotl@0.19.0"],
)


def stamp(command: str) -> dict[str, Any]:
    """What every measured row carries: command, commit (`+` where src/ has more than it), hardware, date."""
    commit = _git("rev-parse", "--short", "HEAD")
    return {
        "command": command,
        "commit": (commit or "unknown") + ("+" if _git("status", "--porcelain", "--", "src") else ""),
        "hardware": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    """Run the comparisons and write their rows."""
    console = Console(stderr=True)
    names = [f"{family.name}@{version}" for family in registry.families().values() for version in family.versions]
    targets = [registry.parse(name) for name in names]
    rows: list[dict[str, Any]] = []
    with Pool(
        lambda kind, text: console.print(text) if kind == "install" else None, fresh="--fresh" in sys.argv
    ) as pool:
        for number, model in enumerate(catalog.names(), 1):
            started = time.monotonic()
            result = compare(question(model, Wishes(tp=2)), targets, pool)
            for column in result.frameworks:
                command = f"tpscope compare {model} --tp 2 --with {column.id}"
                wrong = [item.meaning for item in result.differences if item.severity == Severity.WRONG]
                rows.append({**stamp(command), "kind": "cell", "model": model, **_cell(column), "wrong": wrong})
            seconds = time.monotonic() - started
            console.print(f"{number:>2}/{len(catalog.names())} {model}: {seconds:.1f} s", highlight=False)
    rows += [_timed(arguments) for arguments in TIMED]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    console.print(f"written: {RESULTS}")


def _cell(column: FrameworkAnswer) -> dict[str, Any]:
    error = column.error or column.loop_error
    return {
        "framework": column.id,
        "status": column.status.value,
        "level": column.selection.level,
        "sharded_fraction": column.sharded_fraction,
        "parameters": column.total_parameters,
        "error": f"{error.kind}: {error.message}" if error else None,
        "where": f"{error.where.path}:{error.where.line}" if error and error.where else None,
        "loop": column.loop_error is None,
        "ignored": [item["setting"] for item in column.ignored],
        "untied": column.head.tied and column.head.tied_after_step is False,
        "unobserved": column.forward.get("unobserved"),
        "seconds": column.seconds.get("case"),
    }


def _timed(arguments: list[str]) -> dict[str, Any]:
    """Wall time of one command as a user types it, best of three."""
    command = [str(Path(sys.executable).with_name("tpscope")), "compare", *arguments]
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        seconds.append(round(time.perf_counter() - started, 2))
    words = "tpscope compare " + " ".join(arguments)
    return {**stamp(words), "kind": "time", "seconds": min(seconds), "all_seconds": seconds}


def matrix(rows: list[dict[str, Any]]) -> str:
    """docs/matrix.md from the rows of a sweep."""
    cells = [row for row in rows if row["kind"] == "cell"]
    frameworks = list(dict.fromkeys(row["framework"] for row in cells))
    found = {(row["model"], row["framework"]): row for row in cells}
    models = list(dict.fromkeys(row["model"] for row in cells))
    first = cells[0]
    lines = [
        "# Catalog x framework versions, TP=2",
        "",
        f"Written by `make sweep` on {first['date']} at {first['commit']} ({first['hardware']}). Each cell is one run "
        "of the framework's own code: `level, fraction of parameters sharded` where it shards the model, `*` where "
        "its training loop then raises before the first optimizer step; else its answer, in its words below. "
        "Repeat a cell with `tpscope compare MODEL --tp 2 --with FRAMEWORK`.",
        "",
    ]
    lines += table(
        ["model", *frameworks], [[model, *(_short(found[model, name]) for name in frameworks)] for model in models]
    )
    problems = [row for row in cells if row["error"]]
    lines += ["", "## In the frameworks' own words", ""]
    seen: dict[tuple[str, str, str], list[str]] = {}
    for row in problems:
        kind = row["status"] if row["status"] != "ok" else "loop raises"
        seen.setdefault((row["framework"], kind, f"{row['error']} ({row['where']})"), []).append(row["model"])
    lines += table(
        ["framework", "what", "models", "words"],
        [[name, kind, ", ".join(models), words] for (name, kind, words), models in seen.items()],
    )
    times = [row for row in rows if row["kind"] == "time"]
    lines += ["", "## How long it takes", "", "Whole processes, best of three, overlays installed.", ""]
    lines += table(["command", "seconds"], [[f"`{row['command']}`", str(row["seconds"])] for row in times])
    return "\n".join(lines) + "\n"


def _short(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return str(row["status"])
    mark = "" if row["loop"] else " *"
    untied = ", unties" if row["untied"] else ""
    return f"{row['level']}, {fraction(row['sharded_fraction'])}{untied}{mark}"


if __name__ == "__main__":
    main()
