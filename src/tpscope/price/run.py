"""Trace a step in every framework and price it on a machine."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from tpscope.compare.result import Model
from tpscope.compare.run import Pool, Question
from tpscope.errors import NoFramework
from tpscope.frameworks.registry import Target
from tpscope.language.measured.answer import ExperimentAnswer
from tpscope.language.measured.price import Collective, StepTrace
from tpscope.language.verdict import Status
from tpscope.price import cost
from tpscope.price.hardware import Machine
from tpscope.price.result import HeadCost, MemoryCost, Priced, Prices, Traffic

_TRACE = TypeAdapter(StepTrace)
_DEFAULTS = ("bf16 weights, gradients and optimizer states", "no activation checkpointing", "eager: nothing is compiled")


def price(
    question: Question, targets: list[Target], pool: Pool, machine: Machine, name: str, batch: int, sequence: int
) -> Prices:
    """The prices of one question. Raises NoFramework if no framework could be run at all."""
    spec = question.model
    layout = {**question.layout.sizes, "world": question.layout.world}
    layout["sequence_parallel"] = question.layout.sequence_parallel
    model = Model(spec.name, spec.architecture, spec.model_type, spec.source, spec.status, spec.config)
    result = Prices(model, layout, batch, sequence, name)
    for target in targets:
        pool.say("run", target.id)
        answer = pool.experiment("price", question, target, {"batch": batch, "sequence": sequence})
        pool.say("done", target.id)
        result.frameworks.append(_priced(target.id, answer, question, machine, batch * sequence))
    if all(column.error is not None and column.error.kind in ("ImportError", "ProcessDied") for column in result.frameworks):
        words = "; ".join(f"{column.id}: {column.error.message}" for column in result.frameworks if column.error)
        raise NoFramework(f"no framework could be run: {words}")
    return result


def _priced(name: str, answer: ExperimentAnswer, question: Question, machine: Machine, tokens: int) -> Priced:
    column = Priced(name, shims=answer.shims, seconds=answer.seconds)
    if answer.error is not None:
        column.status, column.error = Status.CRASHED, answer.error
        return column
    trace = _TRACE.validate_python(answer.value)
    column.model_class, column.loss, column.optimizer, column.layers = (
        trace.model_class, trace.loss, trace.optimizer, trace.layers,
    )  # fmt: skip
    column.assumptions = [*_DEFAULTS, *trace.assumptions]
    if trace.stopped is not None:
        column.assumptions.append(
            f"the framework's own {trace.stopped.phase} stops here ({trace.stopped.kind}: {trace.stopped.message}): "
            "what comes after it is not priced"
        )
    column.collectives = [_traffic(item, trace, question, machine) for item in trace.collectives]
    column.memory = _memory(trace)
    column.head = _head(trace)
    column.flops = sum(item.flops * item.count for item in trace.operations)
    column.time = cost.step_time(trace, machine, question.layout, tokens)
    column.fits = column.memory.peak_bytes + machine.reserved_bytes <= machine.memory_bytes
    return column


def _traffic(item: Collective, trace: StepTrace, question: Question, machine: Machine) -> Traffic:
    return Traffic(
        item.phase, item.kind, item.axis, item.module,
        item.count / trace.layers if "layers.*" in item.module and trace.layers else 0,
        item.count, item.bytes, cost.wire_bytes(item), item.dtype, item.ranks,
        round(cost.collective_seconds(item, machine, question.layout) * item.count * 1e3, 3), item.where,
    )  # fmt: skip


def _memory(trace: StepTrace) -> MemoryCost:
    phases = trace.memory.peaks
    if not phases:
        return MemoryCost()
    highest = max(phases, key=lambda peak: peak.bytes)
    return MemoryCost(highest.bytes, highest.phase, dict(highest.by_category), list(phases))


def _head(trace: StepTrace) -> HeadCost:
    """Who gathers the logits: an all_gather in the head's own module is the plan's, one in the loss is the loss's."""
    for item in trace.collectives:
        if item.kind != "all_gather":
            continue
        if item.phase == "loss" or (item.phase == "forward" and item.module.rpartition(".")[2] in ("lm_head", "embed_out")):
            by = "loss" if item.phase == "loss" else "plan"
            return HeadCost("gathered", by, item.dtype, item.bytes, item.where)
    return HeadCost("sharded or whole, never gathered")


def sizes(layout: dict[str, Any]) -> str:
    """A layout in a few words."""
    said = [f"{axis}={size}" for axis, size in layout.items() if isinstance(size, int) and size > 1 and axis != "world"]
    return ", ".join(said) or "tp=1"
