"""How long proofs take, as whole processes that ask everything afresh: results/prove_speed.json, part of `make sweep`.

python -m tpscope.report.prove_speed    measure what has not been measured with this code, by itself
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console

from tpscope.frameworks import runner
from tpscope.models import catalog
from tpscope.prove.scenarios import TABLE
from tpscope.report.prove_rows import Cell
from tpscope.report.sweep import ROOT, stamp

SPEED = Path("results/prove_speed.json")
WARM_LIMIT = 2.0


@dataclass(frozen=True)
class Timed:
    """One command that is timed, and the most seconds that it may take."""

    what: str
    arguments: tuple[str, ...]
    limit: float

    @property
    def command(self) -> str:
        """The command line."""
        return " ".join(["tpscope prove", *self.arguments])


def _commands() -> tuple[Timed, ...]:
    single = ",".join(TABLE)
    three = ("--with", "nemo@0.7.0", "--with", "axolotl@0.19.0", "--with", "transformers@5.23.0")
    return (
        Timed(
            "one model, one framework, every single scenario, TP=2",
            ("llama-3.1-8b", "--with", "nemo@0.7.0", "--scenarios", single, "--tp", "2", "--fresh"), 90.0,
        ),
        Timed(
            "the catalog, three framework versions, plain, TP=2",
            ("--models", ",".join(catalog.names()), *three, "--scenarios", "plain", "--tp", "2", "--fresh"), 600.0,
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One timed command: wall seconds of the whole process, imports included, and what its cases came to.

    `code` names the code inside the frameworks that ran: other code is measured anew.
    """

    what: str
    command: str
    limit: float
    seconds: float
    verdicts: dict[str, int]
    commit: str
    hardware: str
    date: str
    code: str


_ROWS = TypeAdapter(list[Measured])


def read(root: Path) -> list[Measured]:
    """What was measured, nothing if there is no file."""
    path = root / SPEED
    return _ROWS.validate_json(path.read_bytes()) if path.is_file() else []


def measure(root: Path, console: Console) -> list[Measured]:
    """Time every command that has no row of this code yet, and write the file after each."""
    code = runner.proof_digest()[:12]
    rows = {row.command: row for row in read(root)}
    for timed in _commands():
        if timed.command in rows and rows[timed.command].code == code:
            continue
        console.print(f"timing: {timed.what}", highlight=False)
        rows[timed.command] = _timed(timed, code)
        kept = [rows[one.command] for one in _commands() if one.command in rows]
        (root / SPEED).write_text(json.dumps([asdict(row) for row in kept], indent=1) + "\n", encoding="utf-8")
    return read(root)


def _timed(timed: Timed, code: str) -> Measured:
    with tempfile.TemporaryDirectory(prefix="tpscope-") as folder:
        answer = Path(folder) / "answer.json"
        tpscope = str(Path(sys.executable).with_name("tpscope"))
        program = [tpscope, "prove", *timed.arguments, "--json", str(answer)]
        started = time.perf_counter()
        subprocess.run(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        seconds = round(time.perf_counter() - started, 1)
        cases = json.loads(answer.read_text(encoding="utf-8"))["cases"]
    verdicts = dict(Counter(case["verdict"] for case in cases))
    made = stamp(timed.command)
    return Measured(
        timed.what, timed.command, timed.limit, seconds, verdicts, made["commit"], made["hardware"], made["date"], code
    )


@dataclass(frozen=True)
class Warm:
    """Seconds of the cases of a sweep, each in the middle of a batch on warm ranks."""

    cases: int
    median: float
    slow: float
    within: float

    @classmethod
    def of(cls, cells: Iterable[Cell]) -> Warm | None:
        """Median, the slowest tenth's least, and the share within the limit; None without cells."""
        seconds: Sequence[float] = sorted(cell.seconds for cell in cells if cell.seconds)
        if not seconds:
            return None
        slow = seconds[min(len(seconds) - 1, int(len(seconds) * 0.9))]
        share = sum(value <= WARM_LIMIT for value in seconds) / len(seconds)
        return cls(len(seconds), statistics.median(seconds), slow, share)


if __name__ == "__main__":
    for row in measure(ROOT, Console(stderr=True)):
        print(f"{row.seconds:.1f} s of {row.limit:.0f} s: {row.what}")
