r"""Fit a machine's constants to rows of bench and write them into its file.

    python -m tpscope.price.calibrate results/bench-h200.jsonl --hardware h200 --hold-out-model qwen3-8b \
        --hold-out-sequence 4096

Kernels, memory and collectives are fitted to rows of single kernels, each constant alone; then the costs of the CPU
and, within a quarter, the others to the times of whole cases, except those of the model and of the sequence length that
are held out. Every row that was used is named in the file.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import tpscope
from tpscope.compare.run import Pool
from tpscope.errors import UserError
from tpscope.price import hardware
from tpscope.price.check import identity, predicted
from tpscope.price.cost import shape_class
from tpscope.price.hardware import Machine
from tpscope.price.measured import Calibration, Case, Known, known, read, unmodelled

_BUSES = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}
_CPU = ("dispatch.operator", "dispatch.view", "dispatch.dtensor", "dispatch.module")
_GPU = (
    "compute.reached.small", "compute.reached.medium", "compute.reached.large", "compute.reached.attention",
    "compute.reached.attention_backward", "memory.reached", "link.reached", "dispatch.gap",
)  # fmt: skip
_STEPS = (0.7, 0.85, 0.95, 1.05, 1.15, 1.3)
_WITHIN = 1.25
Constants = dict[str, float]


def from_kernels(rows: Iterable[Calibration], machine: Machine) -> Constants:
    """Constants that single kernels, collectives and operators give directly."""
    by: dict[str, list[Calibration]] = {}
    for row in rows:
        by.setdefault(row.kind, []).append(row)
    found: Constants = {}
    parts: dict[str, list[float]] = {}
    for row in by.get("matmul", []):
        flops = 2 * row.size["m"] * row.size["n"] * row.size["k"]
        share = flops / (row.milliseconds / 1e3) / machine.compute.bfloat16
        parts.setdefault(shape_class("mm", flops), []).append(share)
    for name, shares in parts.items():
        found[f"compute.reached.{name}"] = median(shares)
    # The largest say what the memory gives; small ones are gaps and launches.
    largest = sorted(by.get("memory", []), key=lambda row: row.size["bytes"])[-max(1, len(by.get("memory", [])) // 2) :]
    if by.get("memory"):
        rates = [row.size["bytes"] / (row.milliseconds / 1e3) / machine.memory.bytes_per_second for row in largest]
        found["memory.reached"] = median(rates)
    found |= _link(by.get("collective", []), machine)
    for row_name, constant in (("eager", "operator"), ("dtensor", "dtensor")):
        costs = [
            row.milliseconds / 1e3 / row.size.get("operators", 1)
            for row in by.get("dispatch", [])
            if row.size.get("operator") == row_name
        ]
        if costs:
            found[f"dispatch.{constant}"] = median(costs)
    return found


def _link(rows: Sequence[Calibration], machine: Machine) -> Constants:
    """Alpha and beta of the link, least squares over what a ring sends, each row weighed by its own time."""
    points = [
        (
            _BUSES[row.size["collective"]] * (row.size["ranks"] - 1) / row.size["ranks"] * row.size["bytes"],
            row.milliseconds / 1e3,
        )
        for row in rows
        if row.size.get("collective") in _BUSES
    ]
    if len(points) < 2:
        return {}
    weights = [1 / seconds**2 for _, seconds in points]
    total = sum(weights)
    x = sum(w * sent for w, (sent, _) in zip(weights, points, strict=True)) / total
    y = sum(w * seconds for w, (_, seconds) in zip(weights, points, strict=True)) / total
    spread = sum(w * (sent - x) ** 2 for w, (sent, _) in zip(weights, points, strict=True))
    slope = sum(w * (sent - x) * (seconds - y) for w, (sent, seconds) in zip(weights, points, strict=True)) / spread
    return {"link.reached": 1 / slope / machine.link.bytes_per_second, "link.latency": max(0.0, y - slope * x)}


def from_cases(known_cases: Sequence[Known], machine: Machine, start: Constants) -> Constants:
    """Constants that whole cases ask for: one at a time is moved as long as the squared relative error falls. Those of
    the GPU that kernels gave stay within a quarter of it."""
    constants = {name: start.get(name, _value(machine, name)) for name in (*_CPU, *_GPU)}
    first = dict(constants)
    best = _misfit(known_cases, machine, constants)
    moved = True
    while moved:
        moved = False
        for name in constants:
            for step in _STEPS:
                value = constants[name] * step
                limit = _WITHIN if name in _GPU else 10.0
                if not first[name] / limit <= value <= first[name] * limit:
                    continue
                if "reached" in name and value > 1:
                    continue
                error = _misfit(known_cases, machine, {**constants, name: value})
                if error < best * 0.999:
                    best, constants[name], moved = error, value, True
    return constants


def _misfit(known_cases: Sequence[Known], machine: Machine, constants: Constants) -> float:
    changed = machine.with_constants(constants)
    total = 0.0
    for item in known_cases:
        assert item.case.milliseconds is not None
        total += (predicted(item, changed)[0] / item.case.milliseconds.median - 1) ** 2
    return total


def _value(machine: Machine, name: str) -> float:
    value: Any = machine
    for step in name.split("."):
        value = getattr(value, step)
    return float(value)


def chosen(cases: Iterable[Case], model: str, sequence: int) -> list[Case]:
    """Cases to calibrate on: those with a prediction, without the model and the sequence length that are held out."""
    return [case for case in cases if not unmodelled(case) and case.model != model and case.sequence != sequence]


def section(constants: Constants, cases: Sequence[Case], kernels: Sequence[Calibration], files: Sequence[str]) -> str:
    """The `[calibrated]` section of a machine's file."""
    rows = [f"{file}: {len(kernels)} calibration rows in all" for file in files] + [identity(case) for case in cases]
    tokens = [case.batch * case.sequence for case in cases] or [0]
    lines = [
        "[calibrated]", f'date = "{max((case.date for case in cases), default="")}"', "rows = [",
        *(f'  "{row}",' for row in rows), "]", f'torch = "{cases[0].torch if cases else kernels[0].torch}"',
        f"tp = {sorted({case.tp for case in cases})}", f"tokens = [{min(tokens)}, {max(tokens)}]", "",
        "[calibrated.constants]", *(f'"{name}" = {value:.4g}' for name, value in sorted(constants.items())), "",
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
    constants = from_kernels(kernels, machine)
    found = [item for case in cases if isinstance(item := trace(case), Known)]
    if found:
        constants |= from_cases(found, machine, constants)
    return section(constants, [item.case for item in found], kernels, files)


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
    before = re.sub(r"\n*\[calibrated\].*", "\n", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    machine = hardware.parsed(path.name, before)
    with Pool(lambda kind, text: print(f"{kind}: {text}", file=sys.stderr)) as pool:
        text = calibrate(
            asked.rows, machine, asked.hold_out_model, asked.hold_out_sequence, lambda case: known(case, pool)
        )
    path.write_text(f"{before.rstrip()}\n\n{text}", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
