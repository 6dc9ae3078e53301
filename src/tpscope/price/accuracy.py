r"""Record how predictions stand to what was measured: results/accuracy.json, from which docs/accuracy.md is made.

    python -m tpscope.price.accuracy results/bench-h200.jsonl --hardware h200 \
        --elsewhere tests/data/measured-before.jsonl

The steps are traced anew where no trace of the same code is kept: minutes. The page needs only the recorded rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from tpscope.compare.run import Pool
from tpscope.errors import UserError
from tpscope.price import hardware
from tpscope.price.check import Accuracies, check
from tpscope.price.hardware import Machine
from tpscope.price.measured import Again, read

FILE = Path("results/accuracy.json")


@dataclass(frozen=True)
class Recorded:
    """One run of the comparison: the command, where it was measured, the constants of then, and the cases; and those
    that were measured on other hosts with such GPUs, on which nothing was calibrated, and what their rows say."""

    command: str
    measured_on: list[str]
    torch: list[str]
    machine: str
    constants: dict[str, float]
    calibrated_on: list[str]
    answer: Accuracies
    elsewhere: Accuracies | None = None
    sources: list[str] = field(default_factory=list)
    again: list[Again] = field(default_factory=list)


def record(files: list[str], elsewhere: list[str], name: str, machine: Machine, pool: Pool) -> Recorded:
    """Trace what was measured and hold the two against each other. Raises UserError without a calibrated machine."""
    if machine.calibrated is None:
        raise UserError(f"--hardware {name}: not calibrated; run tpscope.price.calibrate on rows of bench first")
    rows, others = read(files), read(elsewhere).cases
    cases = rows.cases
    command = f"python -m tpscope.price.accuracy {' '.join(files)} --hardware {name}"
    if elsewhere:
        command += f" --elsewhere {' '.join(elsewhere)}"
    return Recorded(
        command, sorted({case.hardware for case in cases}), sorted({case.torch for case in cases}), machine.title,
        machine.calibrated.constants, list(machine.calibrated.rows), check(cases, machine, name, pool),
        check(others, machine, name, pool) if others else None,
        sorted({case.source for case in others if case.source}), list(rows.again),
    )  # fmt: skip


def write(root: Path, recorded: Recorded) -> None:
    """Keep it in the repository."""
    (root / FILE).write_text(f"{json.dumps(asdict(recorded), indent=1)}\n", encoding="utf-8")


def recorded_in(root: Path) -> Recorded | None:
    """What was recorded last; None if nothing was."""
    if not (root / FILE).is_file():
        return None
    return TypeAdapter(Recorded).validate_json((root / FILE).read_bytes())


def main() -> None:
    """Compare and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--hardware", default="h200")
    parser.add_argument("--elsewhere", nargs="*", default=[])
    asked = parser.parse_args()
    with Pool(lambda kind, text: print(f"{kind}: {text}", file=sys.stderr)) as pool:
        write(Path(), record(asked.rows, asked.elsewhere, asked.hardware, hardware.machine(asked.hardware), pool))
    print(f"written: {FILE}")


if __name__ == "__main__":
    main()
