"""What rows of single kernels, collectives and operators say of a machine: constants, and curves of seconds by size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from tpscope.language.measured.price import Collective
from tpscope.price import curves
from tpscope.price.cost import wire_bytes
from tpscope.price.curves import Points
from tpscope.price.measured import Calibration

# Kernels that take less than this many times what the CPU needs for an operator were timed by their launches; products
# and attention do more on the CPU before they launch.
_LAUNCHES, _OF_PRODUCT, _OF_ATTENTION = 1.5, 2.5, 4.0
_KINDS = {
    "add": curves.ELEMENTWISE, "copy": curves.ELEMENTWISE, "silu_mul": curves.ELEMENTWISE, "cast": curves.CAST,
    "softmax": curves.SOFTMAX, "cross_entropy": curves.SOFTMAX, "rms_norm": curves.NORM, "embedding": curves.PICK,
}  # fmt: skip
# Kernels of one call, each over an equal part of its bytes.
_TOGETHER = {"silu_mul": 2}
_Timed = list[tuple[float, float]]


def constants(rows: Iterable[Calibration]) -> dict[str, float]:
    """Costs of the CPU: an operator, a module's call, what an operator on DTensor costs besides the one on its local
    part, and what a collective does besides an operator."""
    taken = {row.size["op"]: _seconds(row) for row in rows if row.kind == "dispatch"}
    eager = [taken[op] for op in ("eager_add", "eager_add_autograd", "eager_linear") if op in taken]
    over = [taken[op] for op in ("dtensor_add", "dtensor_linear", "dtensor_linear_autograd") if op in taken]
    found = {"dispatch.operator": median(eager)} if eager else {}
    if eager and over:
        found["dispatch.dtensor"] = max(0.0, median(over) - median(eager))
    if eager and "functional_all_reduce" in taken:
        found["dispatch.collective"] = max(0.0, taken["functional_all_reduce"] - median(eager))
    return found | ({"dispatch.module": taken["module_call"]} if "module_call" in taken else {})


def drawn(rows: Iterable[Calibration]) -> dict[str, Points]:
    """Every curve that the rows give."""
    kept = list(rows)
    least = constants(kept).get("dispatch.operator", 0.0)
    found = {
        curves.PRODUCT: curves.drawn(_products(kept), _OF_PRODUCT * least),
        **{kind: curves.drawn(timed, _OF_ATTENTION * least) for kind, timed in _attention(kept)},
        **{kind: curves.drawn(timed, _LAUNCHES * least) for kind, timed in _memory(kept).items()},
        **{kind: curves.rising(curves.drawn(timed)) for kind, timed in _collectives(kept).items()},
    }
    if timed := _fused(kept):
        found[curves.FUSED] = curves.drawn(timed)
    if (timed := _reductions(kept, found)) and (points := curves.drawn(timed)):
        found[curves.REDUCTION] = points
    return {kind: points for kind, points in found.items() if points}


def _seconds(row: Calibration) -> float:
    return row.milliseconds / 1e3


def _products(rows: list[Calibration]) -> _Timed:
    return [
        (2.0 * row.size["m"] * row.size["n"] * row.size["k"], _seconds(row)) for row in rows if row.kind == "matmul"
    ]


def _attention(rows: list[Calibration]) -> list[tuple[str, _Timed]]:
    """Of causal attention: two products forward and five backward, half of each. The backward is what forward and
    backward take more than the forward of the same size."""
    forward: dict[tuple[int, ...], float] = {}
    both: dict[tuple[int, ...], float] = {}
    for row in rows:
        if row.kind == "attention":
            size = tuple(row.size[name] for name in ("sequence", "heads", "kv_heads", "head_dim"))
            (forward if row.size["pass"] == "forward" else both)[size] = _seconds(row)
    ahead: _Timed = []
    back: _Timed = []
    for size, seconds in forward.items():
        flops = 2.0 * size[0] ** 2 * size[3] * size[1]
        ahead.append((flops, seconds))
        # Where the CPU was slower than both, their difference is no kernel's.
        if both.get(size, 0.0) > 2 * seconds and seconds > _OWN:
            back.append((2.5 * flops, both[size] - seconds))
    return [(curves.ATTENTION, ahead), (curves.ATTENTION_BACKWARD, back)]


# Seconds of an attention forward whose backward is long enough to be the GPU's.
_OWN = 80e-6


def _memory(rows: list[Calibration]) -> dict[str, _Timed]:
    found: dict[str, _Timed] = defaultdict(list)
    for row in rows:
        if row.kind == "memory" and row.size["op"] in _KINDS:
            times = _TOGETHER.get(row.size["op"], 1)
            found[_KINDS[row.size["op"]]].append((row.size["bytes"] / times, _seconds(row) / times))
    return found


def _reductions(rows: list[Calibration], found: dict[str, Points]) -> _Timed:
    """The mean in transformers' own RMSNorm: what the whole of it takes more than its two casts, its square and its two
    products, 6, 6, 8, 8 and 4 bytes a number of its 36."""
    if not (found.get(curves.CAST) and found.get(curves.ELEMENTWISE)):
        return []
    timed = []
    for row in rows:
        if row.kind != "memory" or row.size["op"] != "rms_norm_eager":
            continue
        numbers = row.size["bytes"] / 36
        rest = _seconds(row) - 2 * curves.seconds(found[curves.CAST], 6 * numbers)
        rest -= sum(curves.seconds(found[curves.ELEMENTWISE], width * numbers) for width in (8, 8, 4))
        # At small sizes the whole is launches.
        if rest > 0 and numbers >= 2**23:
            timed.append((4 * numbers, rest))
    return timed


def _fused(rows: list[Calibration]) -> _Timed:
    """The largest step of a fused AdamW, by the bytes of what a trace sees it read and write: parameter, gradient and
    two moments, all of them both. One kernel works on all tensors, so that a small one goes at the same rate."""
    steps = [row for row in rows if row.kind == "optimizer" and row.size["way"] == "fused"]
    if not steps:
        return []
    largest = max(steps, key=lambda row: int(row.size["numbers"]))
    return [(16.0 * largest.size["numbers"], _seconds(largest))]


def _collectives(rows: list[Calibration]) -> dict[str, _Timed]:
    """By what a rank sends, so that other numbers of ranks find their place."""
    found: dict[str, _Timed] = defaultdict(list)
    for row in rows:
        if row.kind == "collective":
            payload = Collective("", row.size["op"], "tp", "", [], "bfloat16", row.size["bytes"], row.size["ranks"], 1)
            found[row.size["op"]].append((float(wire_bytes(payload)), _seconds(row)))
    return found
