r"""Fit a machine's constants to rows of bench and write them into its file.

    python -m tpscope.price.calibrate results/bench-h200.jsonl results/calibration-h200.jsonl --hardware h200 \
        --hold-out-model qwen3-8b --hold-out-sequence 4096

Rows of single kernels and collectives give curves of seconds by size and first costs of the CPU. Then the times of
whole cases, except those of the model and of the sequence length that are held out, each weighed by its spread, move
the costs of the CPU and, within a quarter, how much longer kernels take in a step. Every row that was used is named in
the file.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import log, log2
from pathlib import Path
from typing import Any

import tpscope
from tpscope.compare.run import Pool
from tpscope.errors import UserError
from tpscope.price import alone, hardware
from tpscope.price.check import identity
from tpscope.price.cost import CHEAPER, PHASES, Parts, parts_of, queued
from tpscope.price.curves import Points
from tpscope.price.hardware import Machine
from tpscope.price.measured import Case, Known, known, read, unmodelled

# Constants that whole cases ask for, and how far a case may move each from what single kernels gave.
_CPU = (
    "dispatch.operator", "dispatch.view", "dispatch.dtensor", "dispatch.module", "dispatch.collective",
    "dispatch.compiled", "dispatch.backward",
)  # fmt: skip
_GPU = ("sustained.arithmetic", "sustained.traffic", "dispatch.gap")
_FAR, _NEAR = 8.0, 1.25
# What the first of these shortens, in the phases where it does.
_BACKWARD, _FROM_C = "dispatch.backward", ("dispatch.operator", "dispatch.view")
_STEPS = (0.6, 0.8, 0.92, 0.98, 1.02, 1.08, 1.25, 1.6)
# Where a case spreads little, it is no better known than this.
_SURE = 0.02
# Seconds of a first guess where no row tells.
_GUESSED = {"dispatch.compiled": 5e-4}
Constants = dict[str, float]
_Flat = dict[tuple[str, str], float]


def from_cases(known_cases: Sequence[Known], machine: Machine, start: Constants) -> Constants:
    """Constants that whole cases ask for: one at a time is moved as long as the misfit falls."""
    guessed = {name: start.get(name) or _GUESSED.get(name) or _value(machine, name) for name in (*_CPU, *_GPU)}
    # What a machine is said to do in no time stays so: it has no multiple.
    first = {name: value for name, value in guessed.items() if value}
    lines = [_Line.of(item, machine, first) for item in known_cases]
    constants, best, moved = dict(first), _misfit(lines, first, first), True
    while moved:
        moved = False
        for change in _changes(first):
            tried = {name: value * change.get(name, 1.0) for name, value in constants.items()}
            if not all(_allowed(name, tried[name] / first[name]) for name in change):
                continue
            error = _misfit(lines, tried, first)
            if error < best * 0.9999:
                best, constants, moved = error, tried, True
    return constants


def _changes(names: Iterable[str]) -> Iterator[Constants]:
    """One constant after the other, then one against another: costs that go together in most cases trade places."""
    for name in names:
        yield from ({name: step} for step in _STEPS)
    for one, other in permutations(names, 2):
        yield from ({one: step, other: 1 / step} for step in (1.05, 1.25))
        yield {one: 1.25, other: 0.95}


def _allowed(name: str, ratio: float) -> bool:
    limit = _NEAR if name in _GPU else _FAR
    return 1 / limit <= ratio <= limit


@dataclass
class _Line:
    """A case whose parts are a linear function of the constants: what they are at none, and for one of each."""

    case: Case
    none: _Flat
    each: dict[str, _Flat]

    @classmethod
    def of(cls, item: Known, machine: Machine, names: Iterable[str]) -> _Line:
        """Price the trace with every constant at nothing, then with one of them at one."""
        nothing = dict.fromkeys(names, 0.0) | {_BACKWARD: 1.0}

        def flat(constants: Constants) -> _Flat:
            parts = parts_of(item.trace, machine.with_constants(constants), item.question.layout)
            return {(part, phase): value for part, phases in parts.items() for phase, value in phases.items()}

        none = flat(nothing)
        each = {}
        for name in set(nothing) - {_BACKWARD}:
            one = flat({**nothing, name: 1.0})
            each[name] = {key: value - none.get(key, 0.0) for key, value in one.items() if value != none.get(key, 0.0)}
        return cls(item.case, none, each)

    def seconds(self, constants: Constants, phases: Sequence[str]) -> float:
        """What `phases` take at some constants."""
        parts: Parts = defaultdict(lambda: defaultdict(float))
        for (part, phase), value in self.none.items():
            parts[part][phase] = value
        for name, flat in self.each.items():
            for (part, phase), slope in flat.items():
                shorter = constants.get(_BACKWARD, 1.0) if name in _FROM_C and phase in CHEAPER else 1.0
                parts[part][phase] += constants[name] * slope * shorter
        return queued(parts, phases)[0]


def _misfit(lines: Sequence[_Line], constants: Constants, first: Constants) -> float:
    """Squared relative errors of whole steps and, at half the weight, of their forwards, each against the spread of its
    repeats; and how far the constants are from what they were alone: one that is doubled counts as much as a case that
    is out by its spread."""
    total = sum(log2(value / first[name]) ** 2 for name, value in constants.items())
    for line in lines:
        whole = PHASES if line.case.scope == "step" else PHASES[:-1]
        for spread, phases, weight in (
            (line.case.milliseconds, whole, 1.0), (line.case.forward_milliseconds, ("forward", "loss"), 0.5),
        ):  # fmt: skip
            if spread is not None and spread.median:
                error = log(line.seconds(constants, phases) * 1e3 / spread.median)
                total += weight * error**2 / (_SURE**2 + spread.half**2)
    return total


def _value(machine: Machine, name: str) -> float:
    value: Any = machine
    for step in name.split("."):
        value = getattr(value, step)
    return float(value)


def chosen(cases: Iterable[Case], model: str, sequence: int) -> list[Case]:
    """Cases to calibrate on: those with a prediction, without the model and the sequence length that are held out."""
    return [case for case in cases if not unmodelled(case) and case.model != model and case.sequence != sequence]


def section(
    constants: Constants,
    drawn: dict[str, Points],
    cases: Sequence[Case],
    kernels: int,
    files: Sequence[str],
    torch: str,
) -> str:
    """The `[calibrated]` section of a machine's file."""
    rows = [f"{', '.join(files)}: {kernels} calibration rows in all", *(identity(case) for case in cases)]
    tokens = [case.batch * case.sequence for case in cases] or [0]
    lines = [
        "[calibrated]", f'date = "{max((case.date for case in cases), default="")}"', "rows = [",
        *(f'  "{row}",' for row in rows), "]", f'torch = "{torch}"',
        f"tp = {sorted({case.tp for case in cases})}", f"tokens = [{min(tokens)}, {max(tokens)}]", "",
        "[calibrated.constants]", *(f'"{name}" = {value:.4g}' for name, value in sorted(constants.items())), "",
        "# Seconds of a kernel by its FLOPs or bytes, of a collective by the bytes that a rank sends.",
        "[calibrated.curves]",
        *(f"{name} = [{', '.join(f'[{size:.3g}, {taken:.3g}]' for size, taken in points)}]"
          for name, points in sorted(drawn.items())), "",
    ]  # fmt: skip
    return "\n".join(lines)


def calibrate(
    files: Sequence[str], machine: Machine, model: str, sequence: int, trace: Callable[[Case], Known | str]
) -> str:
    """The section that rows give. Raises UserError if there is nothing to fit."""
    rows = read(files)
    kernels = [row for row in rows.calibration if not row.rehearsal]
    cases = chosen(rows.cases, model, sequence)
    if not kernels and not cases:
        raise UserError(f"{', '.join(files)}: no row of a GPU to calibrate on; run tpscope.bench on one first")
    constants, drawn = alone.constants(kernels), alone.drawn(kernels)
    found = [item for case in cases if isinstance(item := trace(case), Known)]
    if found:
        constants |= from_cases(found, machine.with_curves(drawn), constants)
    used = [item.case for item in found]
    return section(constants, drawn, used, len(kernels), files, (used or kernels)[0].torch)


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--hardware", default="h200")
    parser.add_argument("--hold-out-model", default="qwen3-8b")
    parser.add_argument("--hold-out-sequence", type=int, default=4096)
    asked = parser.parse_args()
    path = Path(asked.hardware)
    if path.suffix != ".toml":
        path = Path(tpscope.__file__).parent / "price" / "machines" / f"{asked.hardware}.toml"
    before = re.sub(r"\n+\[calibrated\]\n.*", "\n", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    machine = hardware.parsed(path.name, before)
    with Pool(lambda kind, text: print(f"{kind}: {text}", file=sys.stderr)) as pool:
        text = calibrate(
            asked.rows, machine, asked.hold_out_model, asked.hold_out_sequence, lambda case: known(case, pool)
        )
    path.write_text(f"{before.rstrip()}\n\n{text}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
