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
from tpscope.language.measured.price import Collective
from tpscope.price import hardware
from tpscope.price.check import identity, predicted
from tpscope.price.cost import shape_class, wire_bytes
from tpscope.price.hardware import Machine
from tpscope.price.measured import Calibration, Case, Known, known, read, unmodelled

# Bytes and FLOPs from which on a kernel is bound by memory, or by arithmetic, and not by its launch.
_LARGE, _ATTENTION = 64 * 2**20, 3e10
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
    found = _products(by.get("matmul", []), machine) | _attention(by.get("attention", []), machine)
    if large := [row for row in by.get("memory", []) if row.size["bytes"] >= _LARGE]:
        rates = [row.size["bytes"] / _seconds(row) / machine.memory.bytes_per_second for row in large]
        found["memory.reached"] = median(rates)
    return found | _link(by.get("collective", []), machine) | _cpu(by.get("dispatch", []))


def _seconds(row: Calibration) -> float:
    return row.milliseconds / 1e3


def _products(rows: Iterable[Calibration], machine: Machine) -> Constants:
    parts: dict[str, list[float]] = {}
    for row in rows:
        flops = 2 * row.size["m"] * row.size["n"] * row.size["k"]
        parts.setdefault(shape_class("mm", flops), []).append(flops / _seconds(row) / machine.compute.bfloat16)
    return {f"compute.reached.{name}": median(shares) for name, shares in parts.items()}


def _attention(rows: Iterable[Calibration], machine: Machine) -> Constants:
    """Of causal attention: two products forward and five backward, half of each. The backward is what forward and
    backward take more than the forward of the same size."""
    forward: dict[tuple[int, ...], float] = {}
    both: dict[tuple[int, ...], float] = {}
    for row in rows:
        size = tuple(row.size[name] for name in ("sequence", "heads", "kv_heads", "head_dim"))
        (forward if row.size["pass"] == "forward" else both)[size] = _seconds(row)
    ahead, back = [], []
    for size, seconds in forward.items():
        sequence, heads, _, width = size
        flops = 2 * sequence**2 * width * heads
        if flops >= _ATTENTION:
            ahead.append(flops / seconds / machine.compute.bfloat16)
            if both.get(size, 0.0) > seconds:
                back.append(2.5 * flops / (both[size] - seconds) / machine.compute.bfloat16)
    found = {"compute.reached.attention": median(ahead)} if ahead else {}
    return found | ({"compute.reached.attention_backward": median(back)} if back else {})


def _cpu(rows: Iterable[Calibration]) -> Constants:
    """An operator, a module's call, and what an operator on DTensor costs besides the one on its local part."""
    taken = {row.size["op"]: _seconds(row) for row in rows}
    eager = [taken[op] for op in ("eager_add", "eager_add_autograd", "eager_linear") if op in taken]
    over = [taken[op] for op in ("dtensor_add", "dtensor_linear", "dtensor_linear_autograd") if op in taken]
    found = {"dispatch.operator": median(eager)} if eager else {}
    if eager and over:
        found["dispatch.dtensor"] = max(0.0, median(over) - median(eager))
    return found | ({"dispatch.module": taken["module_call"]} if "module_call" in taken else {})


def _link(rows: Iterable[Calibration], machine: Machine) -> Constants:
    """Alpha and beta of the link, least squares over what a ring sends, each row weighed by its own time."""
    points = []
    for row in rows:
        ranks = row.size["ranks"]
        payload = Collective("", row.size["op"], "tp", "", [], "bfloat16", row.size["bytes"], ranks, 1)
        points.append((wire_bytes(payload), _seconds(row)))
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
