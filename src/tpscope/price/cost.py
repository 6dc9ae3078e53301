"""Seconds of a traced step on a machine: a roofline for each kernel, alpha and beta for each collective, and the CPU.

Traffic of a rank over a ring of n, of a payload of B bytes (Thakur, Rabenseifner and Gropp, Optimization of collective
communication operations in MPICH, 2005): all_reduce 2(n-1)/n B, all_gather and reduce_scatter (n-1)/n B with B the
whole tensor, all_to_all (n-1)/n B, broadcast and send_recv B.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tpscope.language.layout import Layout
from tpscope.language.measured.price import Collective, Operation, StepTrace
from tpscope.price.hardware import Bandwidth, Machine
from tpscope.price.result import Part, TimeCost

PHASES = ("forward", "loss", "backward", "step")
CPU = "CPU dispatch"
GPU = ("compute", "memory-bound", "exposed communication")
# FSDP gathers and scatters on streams of its own, beside the kernels.
BESIDE = "overlapped communication"
_FSDP = ("dp_", "cp")
_SMALL, _MEDIUM = 1e9, 3e10
Parts = dict[str, dict[str, float]]


def wire_bytes(item: Collective) -> int:
    """What one rank sends for one call."""
    share = (item.ranks - 1) / item.ranks
    if item.kind in ("broadcast", "send_recv"):
        return item.bytes
    return round(item.bytes * share * (2 if item.kind == "all_reduce" else 1))


def link_of(machine: Machine, layout: Layout, axis: str) -> Bandwidth:
    """What the ranks of a mesh axis talk over: the link inside a domain, the network where the axis leaves it.

    Ranks lie tp fastest, then cp, dp_shard, dp_replicate, pp: an axis stays in a domain if it and all faster ones do.
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


def shape_class(name: str, flops: int) -> str:
    """The class of an operator, whose members are taken to reach the same part of peak arithmetic."""
    if "attention" in name:
        return "attention_backward" if "backward" in name else "attention"
    return "small" if flops < _SMALL else "medium" if flops < _MEDIUM else "large"


def kernel_seconds(item: Operation, machine: Machine) -> float:
    """One call: the slower of its arithmetic and its traffic to memory, and the gap to the next kernel."""
    peak = machine.compute.float32 if item.dtype == "float32" else machine.compute.bfloat16
    reached: float = getattr(machine.compute.reached, shape_class(item.name, item.flops))
    arithmetic = item.flops / (peak * reached)
    traffic = (item.read + item.written) / (machine.memory.bytes_per_second * machine.memory.reached)
    return max(arithmetic, traffic) + (machine.dispatch.gap if item.kernel else 0.0)


def parts_of(trace: StepTrace, machine: Machine, layout: Layout) -> Parts:
    """Seconds by part and phase. `CPU dispatch` runs beside the others."""
    parts: Parts = defaultdict(lambda: defaultdict(float))
    for operation in trace.operations:
        name = "compute" if operation.flops else "memory-bound"
        parts[name][operation.phase] += kernel_seconds(operation, machine) * operation.count
        parts[CPU][operation.phase] += machine.dispatch.operator * operation.count * operation.kernel
    for item in trace.collectives:
        name = BESIDE if item.axis.startswith(_FSDP) else "exposed communication"
        parts[name][item.phase] += collective_seconds(item, machine, layout) * item.count
        parts[CPU][item.phase] += machine.dispatch.operator * item.count
    costs = machine.dispatch
    for counts, seconds in ((trace.dispatches, costs.dtensor), (trace.views, costs.view), (trace.calls, costs.module)):
        for phase, count in counts.items():
            parts[CPU][phase] += seconds * count
    return parts


def queued(parts: Parts, phases: Iterable[str] = PHASES) -> tuple[float, dict[str, str]]:
    """Seconds until the GPU is done, and what each phase waits for.

    The CPU fills a queue that the GPU empties: a phase is over on the GPU when all before it and its own work is, and
    not before the CPU has handed over the last of it. A CPU that is ahead in one phase may be slow in the next.
    """
    handed = done = 0.0
    bound = {}
    for phase in phases:
        beside = parts.get(BESIDE, {}).get(phase, 0.0)
        work = sum(parts.get(name, {}).get(phase, 0.0) for name in GPU)
        gpu = max(work, beside)
        cpu = parts.get(CPU, {}).get(phase, 0.0)
        if not gpu and not cpu:
            continue
        handed += cpu
        slow = handed > done + gpu
        longest = max(GPU, key=lambda name: parts.get(name, {}).get(phase, 0.0))
        bound[phase] = CPU if slow else BESIDE if beside > work else longest
        done = max(done + gpu, handed)
    return done, bound


def step_time(trace: StepTrace, machine: Machine, layout: Layout, tokens: int) -> TimeCost:
    """Step time with its parts. The frameworks wait for a collective of tp where they issue it: nothing of it is
    hidden. Those of FSDP run beside the kernels."""
    parts = parts_of(trace, machine, layout)
    total, bound = queued(parts)
    flops = sum(operation.flops * operation.count for operation in trace.operations)
    return TimeCost(
        round(total * 1e3, 3),
        [
            Part(name, {phase: round(value * 1e3, 3) for phase, value in parts[name].items() if phase})
            for name in (*GPU, BESIDE, CPU)
            if parts[name]
        ],
        bound,
        machine.standing(layout, tokens),
        round(tokens / total / layout.tp / layout.cp, 1) if total else 0.0,
        round(flops / (total * machine.compute.bfloat16), 4) if total else 0.0,
    )
