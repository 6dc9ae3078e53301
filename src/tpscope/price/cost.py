"""Seconds of a traced step on a machine: each kernel and collective as measured at its size, or by a roofline and by
alpha and beta where nobody measured; and the CPU.

Traffic of a rank over a ring of n, of a payload of B bytes (Thakur, Rabenseifner and Gropp, Optimization of collective
communication operations in MPICH, 2005): all_reduce 2(n-1)/n B, all_gather and reduce_scatter (n-1)/n B with B the
whole tensor, all_to_all (n-1)/n B, broadcast and send_recv B.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import prod

from tpscope.language.layout import Layout
from tpscope.language.measured.price import Collective, Operation, StepTrace
from tpscope.price import compiled, curves
from tpscope.price.hardware import Bandwidth, Machine
from tpscope.price.result import Part, TimeCost

PHASES = ("forward", "loss", "backward", "step")
# Phases in which an operator costs the CPU less.
CHEAPER = ("backward", "step")
CPU = "CPU dispatch"
GPU = ("compute", "memory-bound", "exposed communication")
# FSDP gathers and scatters on streams of its own, beside the kernels.
BESIDE = "overlapped communication"
_FSDP = ("dp_", "cp")
_RINGS = ("all_reduce", "all_gather", "reduce_scatter")
# Mesh axes, the fastest first, and what a flattened one is made of.
_ORDER = ("tp", "cp", "dp_shard", "dp_replicate", "pp")
_FLAT = {
    "dp": ("dp_shard", "dp_replicate"), "dp_cp": ("cp", "dp_shard", "dp_replicate"), "dp_shard_cp": ("cp", "dp_shard"),
}  # fmt: skip
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
    return machine.link if _span(layout, axis)[1] <= machine.domain else machine.network


def _span(layout: Layout, axis: str) -> tuple[int, int]:
    """How far apart neighbours on an axis are, and how many ranks it reaches over from first to last."""
    parts = _FLAT.get(axis, (axis,) if axis in _ORDER else _ORDER)
    first, last = (_ORDER.index(parts[end]) for end in (0, -1))
    sizes = [getattr(layout, name) for name in _ORDER]
    return prod(sizes[:first]), prod(sizes[: last + 1])


def _ring(machine: Machine, layout: Layout, axis: str) -> Bandwidth:
    """The network for a ring. Data enter and leave a machine once (NVIDIA/nccl issue 687), and adapters add up to what
    the link inside carries (issue 412): k ranks of a group in one machine share k adapters."""
    inside = max(1, machine.domain // _span(layout, axis)[0])
    reached = machine.network.bytes_per_second * machine.network.reached * inside
    most = machine.link.bytes_per_second * machine.link.reached
    return Bandwidth(bytes_per_second=min(reached, most), reached=1.0, latency=machine.network.latency)


def collective_seconds(item: Collective, machine: Machine, layout: Layout) -> float:
    """One call. Over the link as it was measured with two ranks that send as much; else alpha and beta."""
    link, sent = link_of(machine, layout, item.axis), wire_bytes(item)
    if link is machine.network and item.kind in _RINGS:
        link = _ring(machine, layout, item.axis)
    if link is machine.link and (points := machine.curve(item.kind)):
        return curves.seconds(points, max(sent, points[0][0]))
    return link.latency + sent / (link.bytes_per_second * link.reached)


def shape_class(name: str, flops: int) -> str:
    """The class of an operator, whose members are taken to reach the same part of peak arithmetic."""
    if "attention" in name:
        return "attention_backward" if "backward" in name else "attention"
    return "small" if flops < _SMALL else "medium" if flops < _MEDIUM else "large"


def kernel_seconds(item: Operation, machine: Machine) -> float:
    """One call and the gap to the next kernel: as measured at its size, where it was; else the slower of its arithmetic
    and its traffic to memory."""
    gap = machine.dispatch.gap if item.kernel else 0.0
    kind = curves.kind_of(item.name, item.flops, item.read, item.written)
    moved = item.read + item.written
    # Products in single precision are rare in training, and were not measured.
    single = item.flops and item.dtype == "float32"
    points = () if single else machine.curve(kind) or (() if item.flops else machine.curve(curves.ELEMENTWISE))
    if points and (size := item.flops or moved):
        slower = machine.sustained.arithmetic if item.flops else machine.sustained.traffic
        return curves.seconds(points, size) * slower + gap
    peak = machine.compute.float32 if item.dtype == "float32" else machine.compute.bfloat16
    reached: float = getattr(machine.compute.reached, shape_class(item.name, item.flops))
    arithmetic = item.flops / (peak * reached)
    return max(arithmetic, moved / (machine.memory.bytes_per_second * machine.memory.reached)) + gap


def parts_of(trace: StepTrace, machine: Machine, layout: Layout) -> Parts:
    """Seconds by part and phase. `CPU dispatch` runs beside the others."""
    parts: Parts = defaultdict(lambda: defaultdict(float))
    costs = machine.dispatch

    def handed(phase: str, seconds: float) -> None:
        parts[CPU][phase] += seconds * (costs.backward if phase in CHEAPER else 1.0)

    for operation in compiled.as_compiled(trace.operations):
        name = "compute" if operation.flops else "memory-bound"
        parts[name][operation.phase] += kernel_seconds(operation, machine) * operation.count
        handed(operation.phase, costs.operator * operation.count * operation.kernel)
    for item in trace.collectives:
        name = BESIDE if item.axis.startswith(_FSDP) else "exposed communication"
        parts[name][item.phase] += collective_seconds(item, machine, layout) * item.count
        handed(item.phase, costs.operator * item.count)
        parts[CPU][item.phase] += costs.collective * item.count
    for phase, count in trace.views.items():
        handed(phase, costs.view * count)
    for counts, seconds in ((trace.dispatches, costs.dtensor), (trace.calls, costs.module)):
        for phase, count in counts.items():
            parts[CPU][phase] += seconds * count
    # On a mesh parameters are DTensors, which a compiled function takes apart and puts together at every call.
    if layout.world > 1 and (entered := compiled.calls(trace.operations)):
        for phase in ("forward", "backward"):
            parts[CPU][phase] += costs.compiled * entered
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
