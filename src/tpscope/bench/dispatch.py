"""What a layer costs the CPU in a step, beside the same model unsharded in one process that is a rank of two.

python -m tpscope.bench.dispatch [--out results/dispatch.jsonl]

With layers this narrow and collectives that move nothing a step takes what its dispatch takes. The cost of a layer is
the slope between two numbers of layers. All models step in turn, so that a disturbance of the machine meets all alike.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tpscope.bench import __main__ as bench
from tpscope.bench.rows import append

MODEL, TP, SEQUENCE, LAYERS, ROUNDS = "llama-3.1-8b", 2, 8, (4, 16), 60
NARROW = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "vocab_size": 64,
}  # fmt: skip
# Family, version, sequence parallel: who is measured, each beside transformers unsharded of the same environment.
EVERYBODY = (
    ("tpscope", "", False), ("tpscope", "", True), ("transformers", "transformers@5.23.0", False),
    ("nemo", "nemo@0.7.0", False),
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Milliseconds a layer and step, medians over rounds, and the median of their ratio with its quartiles."""

    unsharded: float
    sharded: float
    ratio: float
    low: float
    high: float


def measure(family: str, sequence_parallel: bool, rounds: int = ROUNDS) -> tuple[Cost, dict[str, Any]]:
    """One family in this process, which must be fresh, and what its row says besides."""
    import torch

    from tpscope.frameworks.inside import world
    from tpscope.frameworks.inside.bench import subject as subjects

    torch.set_num_threads(1)
    world.start(TP)
    steps = {}
    for sharded in (False, True):
        for layers in LAYERS:
            config = bench.configs([MODEL], True, layers)[MODEL] | NARROW
            plan = bench.proven_plans({MODEL: config}, TP)[MODEL] if sharded and family == "tpscope" else None
            wanted = subjects.Wanted(
                config, TP if sharded else 1, sharded and sequence_parallel, dtype="float32", plan=plan
            )
            steps[sharded, layers] = subjects.build(family if sharded else "transformers", wanted, torch.device("cpu"))
    for subject in steps.values():
        subject.prepare(subject.losses()[0])
    ids = torch.arange(SEQUENCE)[None]
    taken: dict[tuple[bool, int], list[float]] = {key: [] for key in steps}
    gc.disable()
    for number in range(rounds + 5):
        for key, subject in steps.items():
            spent = _step(subject, ids)
            if number >= 5:
                taken[key].append(spent)
        gc.collect(0)
    slopes = {
        sharded: [
            (many - few) / (LAYERS[1] - LAYERS[0])
            for few, many in zip(taken[sharded, LAYERS[0]], taken[sharded, LAYERS[1]], strict=True)
        ]
        for sharded in (False, True)
    }
    # Of two neighbouring steps one may be disturbed: rounds are paired, and the median of their ratios is taken.
    ratios = [one / other for one, other in zip(slopes[True], slopes[False], strict=True) if other > 0]
    low, middle, high = statistics.quantiles(ratios, n=4)
    cost = Cost(*(round(statistics.median(slopes[sharded]), 4) for sharded in (False, True)),
                *(round(item, 3) for item in (middle, low, high)))  # fmt: skip
    return cost, {"torch": torch.__version__, "packages": subjects.packages(), "framework": subjects.version(family)}


def _step(subject: Any, ids: Any) -> float:
    for parameter in subject.model.parameters():
        parameter.grad = None
    started = time.perf_counter()
    with subject.around():
        subject.backward(subject.forward(ids))
    return (time.perf_counter() - started) * 1e3


def _apart(family: str, version: str, sequence_parallel: bool) -> dict[str, Any]:
    """The row of one family, from a process of its own; with `error` where that raised."""
    command = [sys.executable, "-m", "tpscope.bench.dispatch", "--inside", family]
    command += ["--with", version] if version else []
    command += ["--sequence-parallel"] if sequence_parallel else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    head = {
        "row": "dispatch", "family": family, "model": MODEL, "tp": TP, "sequence_parallel": sequence_parallel,
        "sequence": SEQUENCE, "layers": list(LAYERS), "narrow": NARROW, "dtype": "float32", "rounds": ROUNDS,
    }  # fmt: skip
    rest = {
        "error": None if done.returncode == 0 else done.stderr.strip()[-600:], "load": round(os.getloadavg()[0], 2),
        "command": "python -m tpscope.bench.dispatch", "commit": bench.commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    return head | (json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}) | rest


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everybody, write a row each, print them."""
    parser = argparse.ArgumentParser("tpscope.bench.dispatch", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/dispatch.jsonl"))
    parser.add_argument("--inside", metavar="FAMILY", help=argparse.SUPPRESS)
    parser.add_argument("--with", dest="with_", help=argparse.SUPPRESS)
    parser.add_argument("--sequence-parallel", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        options.site, options.family, options.stands_for = [], options.inside, ""
        if options.with_:
            bench.overlay(options)
        sys.path[:0] = options.site
        cost, more = measure(options.inside, options.sequence_parallel)
        print(json.dumps(asdict(cost) | more))
        return 0
    for who in EVERYBODY:
        row = _apart(*who)
        append(options.out, row)
        name = f"{row.get('framework', who[0])}{', sequence parallel' if row['sequence_parallel'] else ''}"
        said = row["error"] or (
            f"{row['sharded']:7.3f} ms a layer, unsharded {row['unsharded']:.3f}: {row['ratio']:.2f}x "
            f"[{row['low']:.2f} {row['high']:.2f}]"
        )
        print(f"{name:36} {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
