"""Seconds of a traced step on a machine: a roofline for each kernel, alpha and beta for each collective, and the CPU.

Traffic of a rank over a ring of n, of a payload of B bytes (Thakur, Rabenseifner and Gropp, Optimization of collective
communication operations in MPICH, 2005): all_reduce 2(n-1)/n B, all_gather and reduce_scatter (n-1)/n B with B the whole
tensor, all_to_all (n-1)/n B, broadcast B.
"""

from __future__ import annotations

from collections import defaultdict

from tpscope.language.layout import Layout
from tpscope.language.measured.price import Collective, Operation, StepTrace
from tpscope.price.hardware import Bandwidth, Machine
from tpscope.price.result import Part, TimeCost

PHASES = ("forward", "loss", "backward", "step")


def wire_bytes(item: Collective) -> int:
    """What one rank sends for one call."""
    share = (item.ranks - 1) / item.ranks
    if item.kind == "broadcast":
        return item.bytes
    return round(item.bytes * share * (2 if item.kind == "all_reduce" else 1))


def link_of(machine: Machine, layout: Layout, axis: str) -> Bandwidth:
    """What the ranks of a mesh axis talk over: the link inside a domain, the network where the axis leaves it.

    Ranks lie tp fastest, then cp, dp_shard, dp_replicate, pp: an axis stays inside a domain if it and all faster ones do.
    """
    span = 1
    for name in ("tp", "cp", "dp_shard", "dp_replicate", "pp"):
        span *= getattr(layout, name)
        if name == axis:
            break
    return machine.link if span <= machine.domain else machine.network


def collective_seconds(item: Collective, machine: Machine, layout: Layout) -> float:
    """One call."""
    link = link_of(machine, layout, item.axis)
    return link.latency + wire_bytes(item) / (link.bytes_per_second * link.reached)


def kernel_seconds(item: Operation, machine: Machine) -> float:
    """One call: the slower of its arithmetic and its traffic to memory."""
    peak = machine.compute.float32 if item.dtype == "float32" else machine.compute.bfloat16
    arithmetic = item.flops / (peak * machine.compute.reached)
    traffic = (item.read + item.written) / (machine.memory.bytes_per_second * machine.memory.reached)
    return max(arithmetic, traffic) + machine.dispatch.kernel


def step_time(trace: StepTrace, machine: Machine, layout: Layout, tokens: int) -> TimeCost:
    """Step time with its parts. A phase takes as long as the slower of the GPU's queue and the CPU that fills it; the
    frameworks wait for each collective where it is issued, so nothing of it is hidden."""
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for operation in trace.operations:
        seconds = kernel_seconds(operation, machine) * operation.count
        parts["compute" if operation.flops else "memory-bound"][operation.phase] += seconds
        parts["CPU dispatch"][operation.phase] += machine.dispatch.operator * operation.count
    for item in trace.collectives:
        parts["exposed communication"][item.phase] += collective_seconds(item, machine, layout) * item.count
        parts["CPU dispatch"][item.phase] += machine.dispatch.operator * item.count
    for phase, count in trace.dispatches.items():
        parts["CPU dispatch"][phase] += machine.dispatch.dtensor * count
    bound, total = {}, 0.0
    for phase in PHASES:
        gpu = sum(values.get(phase, 0.0) for name, values in parts.items() if name != "CPU dispatch")
        cpu = parts["CPU dispatch"].get(phase, 0.0)
        if not gpu and not cpu:
            continue
        on_gpu = [name for name in parts if name != "CPU dispatch"]
        bound[phase] = "CPU dispatch" if cpu > gpu else max(on_gpu, key=lambda name: parts[name].get(phase, 0.0))
        total += max(gpu, cpu)
    flops = sum(operation.flops * operation.count for operation in trace.operations)
    return TimeCost(
        round(total * 1e3, 3),
        [Part(name, {phase: round(value * 1e3, 3) for phase, value in values.items()}) for name, values in parts.items()],
        bound,
        machine.status,
        round(tokens / total / layout.tp, 1) if total else 0.0,
        round(flops / (total * machine.compute.bfloat16), 4) if total else 0.0,
    )
