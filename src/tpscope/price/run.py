"""Trace a step in every framework and price it on a machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tpscope.compare.result import Model
from tpscope.compare.run import Pool, Question
from tpscope.errors import NoFramework
from tpscope.frameworks.registry import Target
from tpscope.language.answer import Failure
from tpscope.language.measured.price import Collective, Moved, StepTrace
from tpscope.language.verdict import Status
from tpscope.price import cost, pipeline
from tpscope.price.hardware import Machine
from tpscope.price.memory import memory_cost
from tpscope.price.result import HeadCost, Priced, Prices, Saved, Traffic, Waste
from tpscope.price.schedule import Plan
from tpscope.price.trace import Step, Traced, traced

_DEFAULTS = (
    "bf16 weights, gradients and optimizer states",
    "no activation checkpointing",
    "eager: nothing is compiled",
)
_TP_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Setting:
    """What is priced besides the model and its layout: a machine, one micro-batch of a rank, and whether the smallest
    TP size that fits is looked for."""

    machine: Machine
    hardware: str
    batch: int
    sequence: int
    smallest_tp: bool = False
    schedule: str = pipeline.SCHEDULES[0]
    micro_batches: int | None = None
    loss: str = ""
    recompute: str = ""

    @property
    def step(self) -> Step:
        """What is traced of it: everything but the machine."""
        return Step(self.batch, self.sequence, self.loss, self.recompute)

    def plan(self, question: Question) -> Plan:
        """How a global batch goes through the pipeline."""
        return Plan(self.schedule, self.micro_batches or question.layout.pp)

    @property
    def defaults(self) -> list[str]:
        """What every column takes for granted."""
        again = f"{self.recompute} activation checkpointing, as the framework's own setting does it"
        return [_DEFAULTS[0], again if self.recompute else _DEFAULTS[1], *_DEFAULTS[2:], *self.machine.assumed]


def price(question: Question, targets: list[Target], pool: Pool, setting: Setting) -> Prices:
    """The prices of one question. Raises NoFramework if no framework could be run at all."""
    spec = question.model
    layout = {**question.layout.sizes, "world": question.layout.world}
    layout["sequence_parallel"] = question.layout.sequence_parallel
    model = Model(spec.name, spec.architecture, spec.model_type, spec.source, spec.status, spec.config)
    result = Prices(model, layout, setting.batch, setting.sequence, setting.hardware)
    pool.prepare(targets)
    without = _without_stages(question, targets, pool)
    result.frameworks = pool.each(
        lambda target: without.get(target.id) or _column(question, target, pool, setting), targets
    )
    if all(
        column.error is not None and column.error.kind in ("ImportError", "ProcessDied") for column in result.frameworks
    ):
        words = "; ".join(f"{column.id}: {column.error.message}" for column in result.frameworks if column.error)
        raise NoFramework(f"no framework could be run: {words}")
    return result


def _without_stages(question: Question, targets: list[Target], pool: Pool) -> dict[str, Priced]:
    """Columns of frameworks that have no pipeline stages, in the words that compare has for it."""
    found: dict[str, Priced] = {}
    if question.layout.pp > 1:
        others = [target for target in targets if target.family.name != "nemo"]
        for target, answer in zip(others, pool.answers(question, others), strict=True):
            if answer.status is not Status.OK:
                found[target.id] = Priced(target.id, answer.status, answer.error)
    return found


def _staged(question: Question, target: Target, pool: Pool, setting: Setting) -> Priced:
    """One column of a layout with pipeline stages."""
    plan = setting.plan(question)
    stages, error, shims, seconds = pipeline.staged(question, target, pool, setting.batch, setting.sequence, plan)
    column = Priced(target.id, shims=shims, seconds=seconds)
    if stages is None:
        column.status, column.error = _standing(error), error
        return column
    found = pipeline.piped(stages, question, setting.machine, setting.batch * setting.sequence, plan)
    slowest, last = found.slowest.other, found.last.other
    assert slowest is not None
    assert last is not None
    column.model_class, column.loss, column.optimizer = last.model_class, last.loss, last.optimizer
    column.layers = sum(len(stage.layers) for stage in found.pipeline.stages)
    column.assumptions = [*setting.defaults, *found.assumptions]
    whole = replace(slowest, layers=len(found.slowest.layers) * plan.micro_batches)
    column.collectives = [_traffic(item, whole, question, setting.machine) for item in found.collectives]
    column.waste = [_waste(item, slowest) for item in slowest.moved]
    column.head = _head(last, setting.batch * setting.sequence)
    column.pipeline, column.time, column.memory, column.flops = (
        found.pipeline, found.time, found.memory, found.flops,
    )  # fmt: skip
    column.fits = fits(column.memory.peak_bytes, setting.machine)
    if setting.smallest_tp:
        column.smallest_tp = _smallest(question, target, pool, setting)
    return column


def _column(question: Question, target: Target, pool: Pool, setting: Setting) -> Priced:
    if why := _untraced(question, target, setting):
        return Priced(target.id, Status.UNSUPPORTED, Failure("NotTraced", why, "trace"))
    if question.layout.pp > 1:
        return _staged(question, target, pool, setting)
    column = priced(target.id, traced(question, target, pool, setting.step), question, setting)
    if question.layout.sequence_parallel and column.error is None:
        column.sequence_parallel = _saved(column, question, target, pool, setting)
    if setting.smallest_tp and column.error is None:
        column.smallest_tp = _smallest(question, target, pool, setting)
    return column


def _untraced(question: Question, target: Target, setting: Setting) -> str:
    """Why a layout is not traced in a framework; empty if it is."""
    layout = question.layout
    if layout.pp > 1 and layout.sequence_parallel:
        return "sequence parallelism inside pipeline stages is not priced yet: what a stage then sends is not traced"
    if layout.pp > 1 and (setting.loss or setting.recompute or question.lora):
        return "a loss of one's own, activation checkpointing and LoRA are not priced inside pipeline stages yet"
    if layout.cp > 1 and layout.pp > 1:
        return "context parallelism inside pipeline stages is not priced yet"
    if target.family.name == "nemo":
        return ""
    if layout.dp_replicate > 1 and target.family.name == "transformers":
        return "dp_replicate of transformers is not priced: its loader has one data-parallel axis, which shards"
    if layout.cp > 1 and target.family.name == "axolotl":
        return "cp of axolotl is not traced: its attention is ring_flash_attn's, whose kernels need a GPU"
    others = [axis for axis in ("cp", "pp") if getattr(layout, axis) > 1]
    return f"{', '.join(others)} of {target.family.name} is not priced yet" if others else ""


def _saved(column: Priced, question: Question, target: Target, pool: Pool, setting: Setting) -> Saved:
    """What sequence parallelism changes: the same step traced without it."""
    other = replace(question, layout=replace(question.layout, sequence_parallel=False))
    without = priced(target.id, traced(other, target, pool, setting.step), other, setting)
    now, before = (it.memory.by_category.get("activations", 0) for it in (column, without))
    same = [(item.kind, item.bytes, item.per_step) for item in column.collectives] == [
        (item.kind, item.bytes, item.per_step) for item in without.collectives
    ]
    if same and now == before:
        return Saved(now, before, "sequence parallelism was asked for and changes nothing")
    share = (before - now) / before if before else 0.0
    sizes = f"{now / 2**30:.1f} GiB, {before / 2**30:.1f} without sequence parallelism"
    words = f"activations at the peak {sizes} ({share:.0%} less)"
    return Saved(now, before, words)


def _smallest(question: Question, target: Target, pool: Pool, setting: Setting) -> int | None:
    """The smallest TP size at which a step fits, each size traced; with stages, the fullest of them."""
    for size in _TP_SIZES:
        other = replace(question, layout=replace(question.layout, tp=size))
        if other.layout.pp > 1:
            stages, _, _, _ = pipeline.staged(other, target, pool, setting.batch, setting.sequence, setting.plan(other))
            memory = pipeline.fullest(stages, setting.plan(other)) if stages else None
        else:
            found = traced(other, target, pool, setting.step)
            memory = memory_cost(found.trace.memory) if found.trace else None
        if memory and memory.peak_bytes and fits(memory.peak_bytes, setting.machine):
            return size
    return None


def fits(peak: int, machine: Machine) -> bool:
    """True if a peak leaves what the CUDA context, NCCL and the allocator take."""
    return peak + machine.reserved_bytes <= machine.memory_bytes


def priced(name: str, found: Traced, question: Question, setting: Setting) -> Priced:
    """One column."""
    column = Priced(name, shims=found.shims, seconds=found.seconds)
    trace = found.trace
    if trace is None:
        column.status, column.error = _standing(found.error), found.error
        return column
    if trace.stopped is not None and trace.stopped.phase != "step":
        # What ran up to there is no step: it has no price.
        column.status, column.error = _standing(trace.stopped), trace.stopped
        return column
    column.model_class, column.loss, column.optimizer, column.layers = (
        trace.model_class, trace.loss, trace.optimizer, trace.layers,
    )  # fmt: skip
    column.assumptions = [*setting.defaults, *trace.assumptions]
    if trace.stopped is not None:
        column.assumptions.append(
            f"the framework's own {trace.stopped.phase} stops here ({trace.stopped.kind}: {trace.stopped.message}): "
            "what comes after it is not priced"
        )
    column.asked_of_data = trace.asked
    column.assumptions += [
        f"answered without data, {count} times a step: {what}" for what, count in trace.asked.items()
    ]
    column.collectives = [_traffic(item, trace, question, setting.machine) for item in trace.collectives]
    column.waste = [_waste(item, trace) for item in trace.moved]
    column.memory = memory_cost(trace.memory)
    column.head = _head(trace, setting.step.tokens // question.layout.cp)
    column.flops = sum(item.flops * item.count for item in trace.operations)
    column.time = cost.step_time(trace, setting.machine, question.layout, setting.step.tokens)
    column.fits = fits(column.memory.peak_bytes, setting.machine) if column.memory.peak_bytes else None
    return column


def _standing(error: Failure | None) -> Status:
    """A framework that raises in a statement of its own refuses; anything else is a crash."""
    if error is not None and error.kind in ("ImportError", "ModuleNotFoundError", "Refused"):
        return Status.UNSUPPORTED
    said = error is not None and error.where is not None and error.where.text.startswith(("raise", "assert"))
    return Status.REFUSED if said else Status.CRASHED


def _traffic(item: Collective, trace: StepTrace, question: Question, machine: Machine) -> Traffic:
    return Traffic(
        item.phase, item.kind, item.axis, item.module,
        item.count / trace.layers if ".*" in item.module and trace.layers else 0,
        item.count, item.bytes, cost.wire_bytes(item), item.dtype, item.ranks,
        round(cost.collective_seconds(item, machine, question.layout) * item.count * 1e3, 3), item.where,
    )  # fmt: skip


def _waste(item: Moved, trace: StepTrace) -> Waste:
    issued, needed = item.issued / trace.layers, item.distinct / trace.layers
    kind = item.kind.replace("_", "-")
    words = f"{issued:.3g} {item.phase} {kind}s a layer, {needed:.3g} needed" if issued > needed else ""
    return Waste(item.phase, item.kind, issued, needed, item.modules, words)


def _head(trace: StepTrace, tokens: int) -> HeadCost:
    """Who gathers the logits: an all_gather in the head's own module is the plan's, one in the loss is the loss's. What
    the head gathers of its input is smaller than logits are."""
    for item in trace.collectives:
        # A gather over data-parallel ranks is one of weights, which are as large.
        if (item.kind, item.axis) != ("all_gather", "tp") or prod(item.shape) < tokens * trace.vocabulary:
            continue
        if item.phase == "loss" or (item.phase == "forward" and item.module == trace.head):
            by = "loss" if item.phase == "loss" else "plan"
            return HeadCost("gathered", by, item.dtype, item.bytes, item.where)
    return HeadCost("never")


def sizes(layout: dict[str, Any]) -> str:
    """A layout in a few words."""
    said = [f"{axis}={size}" for axis, size in layout.items() if isinstance(size, int) and size > 1 and axis != "world"]
    return ", ".join(said) or "tp=1"
