"""Seconds of kernels and collectives by size, as measured alone: few points, straight lines between logarithms."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from math import exp, log, log2
from statistics import median

# Sizes (FLOPs, or bytes) and seconds, the smallest size first.
Points = tuple[tuple[float, float], ...]

PRODUCT, ATTENTION, ATTENTION_BACKWARD = "product", "attention", "attention_backward"
ELEMENTWISE, CAST, REDUCTION, SOFTMAX, NORM, PICK = "elementwise", "cast", "reduction", "softmax", "norm", "pick"
FUSED = "fused"
# Curves by FLOPs, and those by what a rank sends; the others are by bytes of memory.
ARITHMETIC = (PRODUCT, ATTENTION, ATTENTION_BACKWARD)
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")
_REDUCTIONS = ("mean", "sum", "var", "amax", "norm", "linalg_vector_norm", "_foreach_norm")
_PICKS = ("embedding", "index", "gather", "index_select", "embedding_dense_backward", "index_put", "scatter")


def kind_of(name: str, flops: int, read: int, written: int) -> str:
    """The curve of an operator. What is not a product and has no curve of its own goes over its tensors once."""
    if "attention" in name:
        return ATTENTION_BACKWARD if "backward" in name else ATTENTION
    if flops:
        return PRODUCT
    if name.startswith("_fused_adam"):
        return FUSED
    if "softmax" in name:
        return SOFTMAX
    if "rms_norm" in name or "layer_norm" in name:
        return NORM
    if name in _REDUCTIONS:
        return REDUCTION
    if name in _PICKS:
        return PICK
    return CAST if name == "_to_copy" and read != written else ELEMENTWISE


def seconds(points: Points, size: float) -> float:
    """Seconds at a size: between two points a power of the size, outside of them at the rate of the outermost."""
    sizes = [one for one, _ in points]
    if size <= sizes[0]:
        return points[0][1] * size / sizes[0]
    if size >= sizes[-1]:
        return points[-1][1] * size / sizes[-1]
    after = bisect_left(sizes, size)
    (low, below), (high, above) = points[after - 1], points[after]
    share = log(size / low) / log(high / low)
    return exp(log(below) + share * (log(above) - log(below)))


def drawn(measured: Iterable[tuple[float, float]], least: float = 0.0) -> Points:
    """A curve through what was measured: the median of the sizes and of the rates in every octave. Octaves that take
    less than `least` are left out."""
    octaves: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for size, taken in measured:
        octaves[round(log2(size))].append((size, taken))
    points = []
    for _, inside in sorted(octaves.items()):
        size = median(size for size, _ in inside)
        points.append((size, size * median(taken / one for one, taken in inside)))
    return tuple(point for point in points if point[1] >= least)


def rising(points: Points) -> Points:
    """A curve without its bumps: a larger message that took less shows what a smaller one needs."""
    least, found = float("inf"), []
    for size, taken in reversed(points):
        least = min(least, taken)
        found.append((size, least))
    return tuple(reversed(found))
