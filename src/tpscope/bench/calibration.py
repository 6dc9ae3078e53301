"""Calibrate a machine: matrix products, memory, collectives, dispatch, attention and optimizer, one row each."""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from tpscope.bench.cases import MODELS
from tpscope.bench.ranks import Ranks
from tpscope.bench.rows import Setting, append
from tpscope.frameworks.inside.bench import kernels
from tpscope.frameworks.inside.bench.kernels import Kernel
from tpscope.frameworks.inside.bench.quiet import SLOWER, Cores

TOKENS = (512, 2048, 4096, 8192)
TPS = (1, 2, 4, 8)
_MIB = 2**20
# Shares of the time that is given, in the order in which they run.
_SHARES = {"collective": 0.12, "memory": 0.12, "attention": 0.14, "dispatch": 0.10, "optimizer": 0.08, "matmul": 0.44}
_MOST_BYTES = 24 * 2**30
_MOST_OPERATIONS = 2e13


def calibrate(ranks: Ranks, setting: Setting, out: Path, seconds: float) -> None:
    """Time what is asked for, kind by kind, in random order so that a kind cut off by its time is a fair sample; of the
    matrix products those of the models that bench measures come first."""
    generator = random.Random(setting.seed)
    every = _all(ranks.device, ranks.size, setting.rehearsal)
    cores = Cores(ranks.rank, sys.maxsize if setting.rehearsal else ranks.size)
    for kind, share in _SHARES.items():
        chosen = [kernel for kernel in every if kernel.kind == kind]
        generator.shuffle(chosen)
        chosen.sort(key=lambda kernel: not kernel.early)
        started, done, failed = time.monotonic(), 0, 0
        for kernel in chosen:
            if ranks.first(time.monotonic() - started > share * seconds):
                break
            made = _row(kernel, ranks, setting, cores)
            done, failed = done + 1, failed + (made["error"] is not None)
            if ranks.rank == 0:
                append(out, made)
        ranks.say(
            f"calibration {kind}: {done} of {len(chosen)} sizes in {time.monotonic() - started:.1f} s, {failed} failed"
        )


def _row(kernel: Kernel, ranks: Ranks, setting: Setting, cores: Cores) -> dict[str, Any]:
    """One kernel on all ranks at once: the slowest rank's median."""
    error, mine = None, float("nan")
    ranks.together()
    try:
        mine = _time(kernel, ranks, cores)
    except Exception as problem:  # noqa: BLE001 - what a kernel raises at a size is part of its row
        error = f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
    said = ranks.all((mine, error))
    errors = [text for _, text in said if text]
    times = [value for value, _ in said]
    return {
        "row": "calibration",
        "hardware": setting.hardware,
        "kind": kernel.kind,
        "size": kernel.size,
        "milliseconds": None if errors else round(max(times), 6),
        "milliseconds_of_ranks": None if errors else [round(value, 6) for value in times],
        "torch": setting.torch,
        "rehearsal": setting.rehearsal,
        "commit": setting.commit,
        "error": "; ".join(errors) or None,
    }


def _time(kernel: Kernel, ranks: Ranks, cores: Cores) -> float:
    """Milliseconds of one call: median of batches, each long enough for its clock. What waits for the CPU is timed on
    quiet cores, and batches in which they were not quiet are left out where others are there."""
    run, cuda = kernel.make(), ranks.device.type == "cuda"
    for _ in range(3):
        run()
    _wait(cuda)
    started = time.perf_counter()
    for _ in range(kernel.calls):
        run()
    _wait(cuda)
    once = (time.perf_counter() - started) / kernel.calls
    # Every rank must call a collective equally often.
    once = max(ranks.all(once))
    calls = kernel.calls if kernel.host else max(1, min(20, int(2e-3 / max(once, 1e-7))))
    batches = max(3, min(9, int(0.03 / max(once * calls, 1e-7))))
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(batches):
        if kernel.host:
            cores.settle()
        took = _batch(run, calls, cuda, kernel.host)
        taken[kernel.host and cores.slowdown() > SLOWER].append(took)
    return statistics.median(taken[False] or taken[True])


def _batch(run: kernels.Run, calls: int, cuda: bool, host: bool) -> float:
    if cuda and not host:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / calls
    _wait(cuda)
    began = time.perf_counter()
    for _ in range(calls):
        run()
    taken = (time.perf_counter() - began) * 1e3 / calls
    _wait(cuda)
    return taken


def _wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def _all(device: torch.device, ranks: int, small: bool) -> list[Kernel]:
    """Every kernel. `small`: a handful, for a rehearsal."""
    found = [*_memory(device), *_collectives(device, ranks), *_attention(device), *_optimizers(device)]
    for op in (
        "eager_add", "eager_add_autograd", "eager_linear", "module_call", "dtensor_add", "dtensor_linear",
        "dtensor_linear_autograd", "dtensor_to_local", "dtensor_from_local", "functional_all_reduce",
    ):  # fmt: skip
        make = lambda op=op: kernels.dispatch(op, device)  # noqa: E731 - bound now, made when its turn comes
        found.append(Kernel("dispatch", {"op": op}, make, calls=300, host=True))
    found += _matmuls(device)
    if small:
        return [kernel for kernel in found if kernel.kind == "dispatch" or _weight(kernel) < 2 * _MIB]
    return found


def _weight(kernel: Kernel) -> float:
    size = kernel.size
    if kernel.kind == "matmul":
        return float(size["m"] * size["k"] * size["n"]) / 512
    return float(size.get("bytes", size.get("sequence", 1) * 4096))


def _memory(device: torch.device) -> list[Kernel]:
    found = []
    widths = {"softmax": (32064, 128256), "cross_entropy": (32064, 128256, 151936)}
    for op in (
        "add",
        "silu_mul",
        "copy",
        "cast",
        "rms_norm",
        "rms_norm_eager",
        "embedding",
        "softmax",
        "cross_entropy",
    ):
        for width in widths.get(op, (4096, 14336)):
            for rows in (128, 512, 2048, 8192):
                size = {"op": op, "rows": rows, "width": width, "bytes": kernels.moved(op, rows, width)}
                make = lambda op=op, rows=rows, width=width: kernels.memory(op, rows, width, device)  # noqa: E731
                found.append(Kernel("memory", size, make))
    return found


def _collectives(device: torch.device, ranks: int) -> list[Kernel]:
    if ranks == 1:
        return []
    found = []
    for op in ("all_reduce", "all_gather", "reduce_scatter"):
        for power in range(16, 29):
            size = {"op": op, "bytes": 2**power, "ranks": ranks}
            make = lambda op=op, size=2**power: kernels.collective(op, size, ranks, device)  # noqa: E731
            found.append(Kernel("collective", size, make, calls=4))
    return found


def _attention(device: torch.device) -> list[Kernel]:
    found = []
    for sequence in (1024, 2048, 4096, 8192, 16384):
        for heads, shared in ((32, 8), (16, 4), (8, 2), (4, 1)):
            for backward in (False, True):
                size = {"op": "sdpa", "sequence": sequence, "heads": heads, "kv_heads": shared, "head_dim": 128,
                        "pass": "forward+backward" if backward else "forward", "dtype": "bfloat16"}  # fmt: skip
                make = lambda s=sequence, h=heads, k=shared, b=backward: kernels.attention(s, h, k, 128, b, device)  # noqa: E731
                found.append(Kernel("attention", size, make))
    return found


def _optimizers(device: torch.device) -> list[Kernel]:
    found = []
    for way in ("foreach", "fused", "single"):
        for numbers, tensors in ((2**22, 16), (2**26, 16), (2**28, 16), (2**30, 64)):
            size = {"op": "adamw", "way": way, "numbers": numbers, "tensors": tensors, "bytes": numbers * 14,
                    "dtype": "bfloat16"}  # fmt: skip
            make = lambda w=way, n=numbers, t=tensors: kernels.optimizer(w, n, t, device)  # noqa: E731
            found.append(Kernel("optimizer", size, make))
    return found


def _matmuls(device: torch.device) -> list[Kernel]:
    """The linear layers of the catalog's dense models at each tp size and number of tokens, every shape once."""
    shapes: dict[tuple[int, int, int, str], bool] = {}
    for name, config in _configs():
        for inner, outer in _linears(config):
            for m in TOKENS:
                for way in ("forward", "dgrad", "wgrad"):
                    shapes[m, inner, outer, way] = shapes.get((m, inner, outer, way), False) or name in MODELS
    found = []
    for (m, k, n, way), early in sorted(shapes.items()):
        # The widest layers at the most tokens would fill the time alone.
        if 2 * (m * k + n * k + m * n) > _MOST_BYTES or 2 * m * k * n > _MOST_OPERATIONS:
            continue
        make = lambda m=m, k=k, n=n, way=way: kernels.matmul(m, k, n, way, device)  # noqa: E731
        size = {"m": m, "k": k, "n": n, "pass": way, "dtype": "bfloat16"}
        found.append(Kernel("matmul", size, make, early=early))
    return found


def _configs() -> list[tuple[str, dict[str, Any]]]:
    folder = resources.files("tpscope.models").joinpath("catalog")
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".json")), key=lambda item: item.name)
    return [(file.name.removesuffix(".json"), json.loads(file.read_text("utf-8"))["config"]) for file in files]


def _linears(config: dict[str, Any]) -> list[tuple[int, int]]:
    """Input and output width of a rank's part of every linear layer, at each tp size that divides it. Only what the
    config says under the names of dense Llama-like models; others are left out."""
    text = config.get("text_config", config)
    try:
        hidden, wide = text["hidden_size"], text["intermediate_size"]
        heads, vocabulary = text["num_attention_heads"], text["vocab_size"]
    except KeyError:
        return []
    width = text.get("head_dim") or hidden // heads
    shared = text.get("num_key_value_heads") or heads
    found = []
    for tp in TPS:
        cut = [(hidden, heads * width), (hidden, shared * width), (hidden, wide), (hidden, vocabulary)]
        found += [(inner, outer // tp) for inner, outer in cut if outer % tp == 0]
        found += [(inner // tp, hidden) for inner in (heads * width, wide) if inner % tp == 0]
    return found
