"""Rows: one JSON line a case, appended as it finishes, and a journal by which a process that died is known of."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tpscope.bench.cases import Case


@dataclass(frozen=True)
class Setting:
    """What all rows of a run have in common."""

    framework: str
    hardware: str
    torch: str
    packages: dict[str, str | None]
    command: str
    commit: str
    dtype: str = "bfloat16"
    rehearsal: bool = False
    ranks: int = 1
    pretended: int = 0
    stands_for: str = ""
    seed: int = 0


@dataclass
class Result:
    """What was measured of a case, over all ranks: the slowest rank's time, the largest memory, rank 0's loss."""

    measured: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    layers: int = 0
    loss: str = ""
    compile_by: str = ""


def row(setting: Setting, case: Case, order: int, result: Result) -> dict[str, Any]:
    """The row of one case. Times are null where it has an error."""
    kept = _undisturbed(result.measured)
    times = _times(result.measured, "forward_backward", kept)
    first = result.measured[0] if result.measured else {}
    losses = [item["loss"] for item in result.measured]
    return {
        "row": "case",
        "framework": setting.framework,
        "model": case.build.model,
        "layout": {"tp": case.build.tp, "sequence_parallel": case.build.sequence_parallel},
        "batch": case.batch,
        "sequence": case.sequence,
        "dtype": setting.dtype,
        "compiled": case.build.compiled,
        "compile_by": result.compile_by if case.build.compiled else None,
        "loss": result.loss or case.loss,
        "scope": "forward-backward",
        "layers": result.layers,
        "milliseconds": times,
        "forward_milliseconds": _times(result.measured, "forward", kept),
        "disturbed": _disturbed(result.measured, kept),
        "optimizer_milliseconds": _times(result.measured, "step"),
        "optimizer": first.get("step_name") or None,
        "optimizer_error": next((item["step_error"] for item in result.measured if item["step_error"]), None),
        "first_milliseconds": max((item["first"] for item in result.measured), default=None),
        "memory": _memory(result.measured),
        "loss_value": losses[0] if losses else None,
        "loss_values_of_ranks": losses,
        "model_class": first.get("model_class"),
        "hardware": setting.hardware,
        "torch": setting.torch,
        "packages": setting.packages,
        "stands_for": setting.stands_for or None,
        "notes": first.get("notes", []),
        "rehearsal": setting.rehearsal,
        "pretended": setting.pretended or None,
        "order": order,
        "seed": setting.seed,
        "command": setting.command,
        "commit": setting.commit,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "error": result.error,
    }


# Fewer undisturbed repeats than this have no median worth its name: then all of them count.
_FEWEST = 5


def _undisturbed(measured: list[dict[str, Any]]) -> list[int]:
    """The repeats that count: those in which no rank's cores were shared with a neighbour, where there are enough."""
    flags = measured[0]["disturbed"] if measured else []
    quiet = [index for index, flag in enumerate(flags) if not flag]
    return quiet if len(quiet) >= _FEWEST else list(range(len(flags)))


def _disturbed(measured: list[dict[str, Any]], kept: list[int]) -> dict[str, Any] | None:
    """How many repeats were disturbed and how many of them left out, the median with them in, and every repeat in its
    order: milliseconds of the slowest rank, slowdown of the slowest core."""
    if not measured:
        return None
    flags, every = measured[0]["disturbed"], _times(measured, "forward_backward")
    return {
        "repeats": sum(flags),
        "left_out": len(flags) - len(kept),
        "median_of_all": every and every["median"],
        "milliseconds": _slowest(measured, "forward_backward", 2),
        "slowdown": _slowest(measured, "slowdown", 3),
    }


def _slowest(measured: list[dict[str, Any]], key: str, digits: int) -> list[float]:
    return [round(max(values), digits) for values in zip(*(item[key] for item in measured), strict=True)]


def _times(measured: list[dict[str, Any]], key: str, kept: list[int] | None = None) -> dict[str, Any] | None:
    """Repeat by repeat the slowest rank, of the repeats `kept`; then median, low and high."""
    every = [max(values) for values in zip(*(item[key] for item in measured), strict=True)]
    repeats = every if kept is None else [every[index] for index in kept]
    if not repeats:
        return None
    ordered = sorted(repeats)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    shown = {"median": middle, "low": ordered[0], "high": ordered[-1]}
    return {name: round(value, 4) for name, value in shown.items()} | {"repeats": len(ordered)}


def _memory(measured: list[dict[str, Any]]) -> dict[str, int]:
    """Bytes by category of the rank whose peak is highest."""
    most: dict[str, int] = max((item["memory"] for item in measured), key=lambda item: item["peak_bytes"], default={})
    return most


@dataclass(frozen=True)
class Entry:
    """One line of the journal: what happened (`began`, `started`, `failed`, `done`), to which case of which run."""

    what: str
    run: str
    order: int = -1
    rank: int = 0
    text: str = ""
    at: float = 0.0


class Journal:
    """Beside the rows, on disk before anything can die: survives the process."""

    def __init__(self, rows: Path, run: str):
        self.rows, self.run = rows, run
        self.file = rows.with_name(f"{rows.name}.journal")
        rows.parent.mkdir(parents=True, exist_ok=True)

    def note(self, entry: Entry) -> None:
        """Append one entry."""
        # As it is: a run is known again by its whole command line, and a journal is not kept.
        _line(self.file, asdict(entry))

    def entries(self) -> list[Entry]:
        """All entries of this run."""
        if not self.file.is_file():
            return []
        read = [Entry(**json.loads(line)) for line in self.file.read_text(encoding="utf-8").splitlines() if line]
        return [entry for entry in read if entry.run == self.run]

    def failure(self, order: int) -> str | None:
        """What ranks said of a case that failed, or None if none failed."""
        said = [entry for entry in self.entries() if entry.what == "failed" and entry.order == order]
        return "; ".join(dict.fromkeys(f"rank {entry.rank}: {entry.text}" for entry in said)) or None

    def finished(self) -> set[int]:
        """Cases that have a row."""
        return {entry.order for entry in self.entries() if entry.what == "done"}

    def lost(self) -> list[int]:
        """Cases that were started and have no row: their process died."""
        started = [entry.order for entry in self.entries() if entry.what == "started"]
        return [order for order in dict.fromkeys(started) if order not in self.finished()]

    def began(self, now: float) -> float:
        """When the run began, over restarts of its processes."""
        for entry in self.entries():
            if entry.what == "began":
                return entry.at
        self.note(Entry("began", self.run, at=now))
        return now

    def write(self, order: int, made: dict[str, Any]) -> None:
        """Append the row of a case and mark it done."""
        append(self.rows, made)
        self.note(Entry("done", self.run, order))


_FOLDERS = re.compile(r"(?<![\w./:~-])/(?:[\w.+@~-]+/)*(?=[\w.])")


def portable(value: Any, sites: Iterable[str]) -> Any:
    """`value` with every string in it without the folders of this machine: a path below one of `sites` (folders that
    packages are read from) or below `site-packages` starts at its package, any other keeps its last name."""
    if isinstance(value, dict):
        return {key: portable(item, sites) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item, sites) for item in value]
    if not isinstance(value, str):
        return value
    roots = [re.escape(site.rstrip("/")) for site in sorted(sites, key=len, reverse=True) if site.startswith("/")]
    below = "|".join([r"/[^\s\"']*?/(?:site|dist)-packages", *roots])
    return _FOLDERS.sub("", re.sub(rf"(?<![\w./:~-])(?:{below})/", "", value))


def append(file: Path, made: dict[str, Any]) -> None:
    """Append a row as one JSON line, without folders of this machine (`portable`), on disk when this returns."""
    _line(file, portable(made, sys.path))


def _line(file: Path, made: dict[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(made) + "\n")
        out.flush()
        os.fsync(out.fileno())
