"""Traces, machines and rows made by hand, for tests."""

from tpscope.language.measured.price import Collective, Memory, Operation, Point, StepTrace
from tpscope.price import hardware

GIB = 2**30


def operation(
    phase="forward", module="model.layers.*.mlp", name="mm", count=1, flops=0, read=0, written=0, kernel=True
):
    return Operation(phase, module, name, [[2, 2]], "bfloat16", count, flops, read, written, kernel)


def collective(
    phase="backward", kind="all_reduce", module="model.layers.*.mlp", size=1024, count=1, ranks=2, shape=None
):
    return Collective(phase, kind, "tp", module, shape or [size // 2], "bfloat16", size, ranks, count)


def memory(*heights, after=None):
    """One point a height, each of weights, of activations by layers, and of the optimizer."""
    names = [("weights", "model"), ("activations", "model.layers.*.mlp"), ("optimizer", "model")]
    points = [
        Point(phase, "last 0", "model.layers.*.mlp", str(number), [(0, weights), (1, activations), (2, optimizer)])
        for number, (phase, weights, activations, optimizer) in enumerate(heights)
    ]
    return Memory(names, points, after or {})


def trace(operations=(), collectives=(), memory=None, layers=2, **more):
    return StepTrace(
        "nemo@0.7.0", layers=layers, operations=list(operations), collectives=list(collectives),
        memory=memory or Memory(), **more,
    )  # fmt: skip


def machine(**constants):
    """A machine with round numbers: a TFLOP/s, a GB/s of memory, a GB/s of link, and nothing for the CPU."""
    text = """
title = "round numbers"
source = ["none"]
memory_bytes = 1_000_000_000
reserved_bytes = 0
domain = 8
[compute]
bfloat16 = 1e12
float32 = 1e11
[compute.reached]
small = 1.0
medium = 1.0
large = 1.0
attention = 0.5
attention_backward = 0.25
[memory]
bytes_per_second = 1e9
reached = 1.0
[link]
bytes_per_second = 1e9
reached = 1.0
latency = 0.001
[network]
bytes_per_second = 1e8
reached = 1.0
latency = 0.01
[dispatch]
operator = 0.0
view = 0.0
dtensor = 0.0
module = 0.0
gap = 0.0
"""
    return hardware.parsed("test", text).with_constants(
        {key.replace("__", "."): value for key, value in constants.items()}
    )
