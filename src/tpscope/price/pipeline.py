"""A step in pipeline stages: stages as the framework's splitter makes them, each traced, in the order of a schedule.

With one stage a rank the schedule is run operation by operation (schedule.py). With v of them the slowest rank has
nothing to do for the time of the others' micro-batches divided by v (Narayanan et al., 2021).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

import tpscope
from tpscope.compare.run import Pool, Question
from tpscope.frameworks.registry import Target
from tpscope.language.answer import Failure
from tpscope.language.measured.price import Collective, StepTrace
from tpscope.language.measured.stage import Stages, StageTrace
from tpscope.models.layers import kinds, layers_of
from tpscope.price import cost, schedule
from tpscope.price.hardware import Machine
from tpscope.price.memory import memory_cost
from tpscope.price.result import MemoryCost, Part, Peak, Pipeline, Stage, TimeCost
from tpscope.price.schedule import Plan, in_flight
from tpscope.price.trace import code

SCHEDULES = ("1f1b", "gpipe", "interleaved1f1b")
BUBBLE = "pipeline bubble"
SECONDS = 900.0
_MICRO = ("forward", "loss", "backward")
_END = ("reduce", "step")
_BUFFERS, _OTHERS = "pipeline buffers", "other stages of the rank"
_STAGES = TypeAdapter(Stages)
_TEXT = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True)
class Timed:
    """Seconds of one stage: a micro-batch, what the first takes more, what ends the step; `waits` of a micro-batch for
    what other stages send."""

    micro: float
    forward: float
    first: float
    end: float
    waits: float
    waits_forward: float
    parts: dict[str, dict[str, float]]
    bound: dict[str, str]


@dataclass
class Piped:
    """What a pipelined step comes to; `slowest` and `fullest` are the traces of those stages."""

    pipeline: Pipeline
    time: TimeCost
    memory: MemoryCost
    slowest: StageTrace
    last: StageTrace
    collectives: list[Collective]
    flops: int
    assumptions: list[str]


def staged(question: Question, target: Target, pool: Pool, batch: int, sequence: int, plan: Plan) -> tuple[
    Stages | None, Failure | None, list[str], float
]:  # fmt: skip
    """The traced stages or what was raised, shims, and seconds."""
    config = question.model.config
    text = next((config[key] for key in _TEXT if isinstance(config.get(key), dict)), config)
    total = layers_of(text) or 0
    found = [str(kind) for kind in kinds(text, total)]
    distinct = list(dict.fromkeys(found))
    options = {
        "batch": batch, "sequence": sequence, "schedule": plan.schedule, "micro_batches": plan.micro_batches,
        "kinds": [distinct.index(kind) for kind in found],
    }  # fmt: skip
    answer = pool.kept_experiment("stages", question, target, options, SECONDS, _code())
    if answer.error is not None:
        return None, answer.error, answer.shims, answer.seconds
    stages = _STAGES.validate_python(answer.value)
    error = next((stage.error or _stopped(stage) for stage in stages.traced if stage.error or _stopped(stage)), None)
    return (None if error else stages), error, answer.shims, answer.seconds


def _stopped(stage: StageTrace) -> Failure | None:
    """What stopped a stage: a step in stages is priced whole or not at all."""
    return next((trace.stopped for trace in (stage.first, stage.other) if trace and trace.stopped), None)


@cache
def _code() -> str:
    """Names the code that traces stages."""
    package = Path(tpscope.__file__).parent
    experiments = package / "frameworks" / "inside" / "experiments"
    files = [experiments / "stages.py", experiments / "pipeline.py", package / "language" / "measured" / "stage.py"]
    return hashlib.sha256(code().encode() + b"".join(file.read_bytes() for file in files)).hexdigest()


def piped(stages: Stages, question: Question, machine: Machine, tokens: int, plan: Plan) -> Piped:
    """Put traced stages in the order of the schedule."""
    timed = {stage.index: _timed(stage, question, machine) for stage in stages.traced}
    ranks = _ranks(stages)
    shown = [_stage(rank, own, timed, stages, plan) for rank, own in enumerate(ranks)]
    slow = max(range(stages.ranks), key=lambda rank: shown[rank].milliseconds)
    full = max(range(stages.ranks), key=lambda rank: shown[rank].peak_bytes)
    own, count = [timed[stage.index] for stage in ranks[slow]], plan.micro_batches
    pace = sum(it.micro + it.waits for it in own)
    every = sum(item.milliseconds for item in shown) / 1e3
    bubble = (every - pace) / stages.per_rank
    if stages.per_rank == 1:
        paces = [_pace(timed[rank[0].index]) for rank in ranks]
        bubble = schedule.seconds(paces, count, "GPipe" in stages.schedule) - count * pace
    first, end = sum(it.first for it in own), max(sum(timed[it.index].end for it in rank) for rank in ranks)
    total = count * pace + bubble + first + end
    flops = count * sum(_flops(stage) for rank in ranks for stage in rank)
    layout = question.layout
    pipeline = Pipeline(stages.schedule, count, stages.per_rank, slow, full, round(bubble / total, 4), shown)
    time = TimeCost(
        round(total * 1e3, 3), _parts(own, count, bubble), own[0].bound, "extrapolated",
        round(tokens * count / total / layout.tp / layout.cp / layout.pp, 1),
        round(flops / (total * machine.compute.bfloat16 * layout.pp), 4),
    )  # fmt: skip
    memory = _memory(full, ranks[full], stages, plan)
    return Piped(
        pipeline, time, memory, ranks[slow][0], ranks[-1][-1], _collectives(ranks[slow], plan, layout.pp),
        flops, _assumptions(stages, question, machine, plan),
    )  # fmt: skip


def _timed(stage: StageTrace, question: Question, machine: Machine) -> Timed:
    first, other = _traces(stage)
    parts = cost.parts_of(other, machine, question.layout)
    micro, bound = cost.queued(parts, _MICRO)
    more = cost.queued(cost.parts_of(first, machine, question.layout), _MICRO)[0] - micro
    ends = cost.queued(parts, _END)[0]
    # It waits for what it is sent: activations before a forward, their gradient before a backward.
    waits = sum(cost.collective_seconds(item, machine, question.layout) for item in _sent(stage))
    forward = cost.queued(parts, _MICRO[:-1])[0]
    early = sum(
        cost.collective_seconds(item, machine, question.layout) for item in _sent(stage) if item.phase == "forward"
    )
    return Timed(micro, forward, max(more, 0.0), ends, waits, early, parts, bound)


def _pace(it: Timed) -> schedule.Pace:
    return schedule.Pace(it.forward + it.waits_forward, it.micro - it.forward + it.waits - it.waits_forward)


def _traces(stage: StageTrace) -> tuple[StepTrace, StepTrace]:
    assert stage.first is not None
    assert stage.other is not None
    return stage.first, stage.other


def _sent(stage: StageTrace) -> list[Collective]:
    """What one micro-batch of a stage receives."""
    return [
        Collective(phase, "send_recv", "pp", "", [], "bfloat16", size, 2, 1)
        for phase, size in (("forward", stage.received), ("backward", stage.sent))
        if size
    ]


def _stage(rank: int, own: list[StageTrace], timed: dict[int, Timed], stages: Stages, plan: Plan) -> Stage:
    micro = sum(timed[stage.index].micro + timed[stage.index].waits for stage in own)
    memory = _memory(rank, own, stages, plan)
    layers = [_layers(stage, index) for index, stage in zip(range(rank, stages.total, stages.ranks), own, strict=True)]
    ends = dict.fromkeys(name.rpartition(".")[2] for stage in own for name in stage.modules if ".layers." not in name)
    return Stage(
        rank, [layer for one in layers for layer in one], [name for name in ends if name != "rotary_emb"],
        round(micro * 1e3, 3), memory.peak_bytes, memory.phase, in_flight(rank, stages, plan),
    )  # fmt: skip


def _layers(stage: StageTrace, index: int) -> list[int]:
    """Layers of a stage, which are not those of the traced stage that stands for it."""
    shift = stage.like.index(index) * len(stage.layers)
    return [layer + shift for layer in stage.layers]


def _memory(rank: int, own: list[StageTrace], stages: Stages, plan: Plan) -> MemoryCost:
    """The highest point of a rank: of one of its stages, with the micro-batches in flight and what the others hold."""
    count, waiting = plan.micro_batches, in_flight(rank, stages, plan) - 1
    saved = sum(stage.saved for stage in own) // len(own)
    # torch allocates a buffer for every micro-batch in each direction before the step.
    buffers = count * sum(stage.received + stage.sent for stage in own)
    found: dict[str, Peak] = {}
    rests = [_traces(stage)[1].memory.after.get("backward", 0) for stage in own]
    for stage, rest in zip(own, rests, strict=True):
        resting = sum(rests) - rest
        for peak in (peak for trace in _traces(stage) for peak in memory_cost(trace.memory).phases):
            by = Counter(peak.by_category)
            by[_BUFFERS] += buffers
            by[_OTHERS] += resting
            by["activations"] += waiting * saved if peak.phase in _MICRO else 0
            by["logits and loss"] += max(count - 2, 0) * stage.kept
            by_category = {name: size for name, size in by.most_common() if size}
            higher = replace(peak, by_category=by_category, bytes=sum(by_category.values()))
            if peak.phase not in found or found[peak.phase].bytes < higher.bytes:
                found[peak.phase] = higher
    top = max(found.values(), key=lambda peak: peak.bytes)
    return MemoryCost(top.bytes, top.phase, top.by_category, list(found.values()))


def fullest(stages: Stages, plan: Plan) -> MemoryCost:
    """The memory of the pipeline rank that needs most."""
    found = [_memory(rank, own, stages, plan) for rank, own in enumerate(_ranks(stages))]
    return max(found, key=lambda memory: memory.peak_bytes)


def _ranks(stages: Stages) -> list[list[StageTrace]]:
    """The stages of each rank, each by the traced one that stands for it."""
    by_index = {index: stage for stage in stages.traced for index in stage.like}
    return [[by_index[index] for index in range(rank, stages.total, stages.ranks)] for rank in range(stages.ranks)]


def _parts(own: list[Timed], count: int, bubble: float) -> list[Part]:
    """Parts of the slowest rank over the whole step, and the time in which it has nothing to do."""
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for it in own:
        for name, phases in it.parts.items():
            for phase, seconds in phases.items():
                parts[name][phase] += seconds * (count if phase in _MICRO else 1)
        parts["exposed communication"]["between stages"] += it.waits * count
    parts[BUBBLE]["step"] = bubble
    return [
        Part(name, {phase: round(value * 1e3, 3) for phase, value in parts[name].items() if phase})
        for name in (*cost.GPU, cost.BESIDE, BUBBLE, cost.CPU)
        if parts.get(name)
    ]


def _flops(stage: StageTrace) -> int:
    return sum(item.flops * item.count for item in _traces(stage)[1].operations)


def _collectives(own: Iterable[StageTrace], plan: Plan, ranks: int) -> list[Collective]:
    """What one rank issues in a step, over all its micro-batches."""
    found: dict[tuple[object, ...], Collective] = {}
    rest = plan.micro_batches - 1
    for stage in own:
        first, other = _traces(stage)
        once = [(item, 1) for item in first.collectives]
        again = [(item, rest if item.phase in _MICRO else 1) for item in other.collectives]
        for item, times in (*once, *again, *((item, plan.micro_batches) for item in _sent(stage))):
            key = (item.phase, item.kind, item.axis, item.module, tuple(item.shape), item.dtype, item.ranks)
            count = item.count * times + (found[key].count if key in found else 0)
            found[key] = replace(item, count=count)
    return [item for item in found.values() if item.count]


def _assumptions(stages: Stages, question: Question, machine: Machine, plan: Plan) -> list[str]:
    layout, count = question.layout, plan.micro_batches
    link = "the link" if cost.link_of(machine, layout, "pp") is machine.link else "the network"
    pairs = "; ".join(f"stage {stage.index} for {_numbers(stage.like)}" for stage in stages.traced)
    each = f", divided by the {stages.per_rank} stages of a rank" if stages.per_rank > 1 else ""
    how = "each other rank adds one micro-batch" if each else "run operation by operation with the stages' times"
    found = [
        f"{count} micro-batches a step and data-parallel rank (--micro-batches; the number of stages where not said)",
        f"stages of equal layers are traced once, whole: {pairs}",
        f"{stages.schedule}, {how}: (p-1)/m of m micro-batches are bubble where stages are even{each} (GPipe 2019; "
        "Narayanan et al. 2021)",
        f"a stage waits for activations and gradients from its neighbours, over {link}, with nothing beside it",
        "a buffer is held for every micro-batch and direction between stages, as torch's stage allocates them",
        "the last stage keeps the outputs of all micro-batches until the step ends, as torch's schedule does",
        f"activations of several micro-batches in flight: {in_flight(0, stages, plan)} on rank 0",
        "gradients are reduced after the last backward, not beside it, as torch's stage does",
        "ranks are alike: no stragglers, no contention on the network, no clipping, data loading or logging",
    ]
    if layout.dp_shard * layout.dp_replicate > 1:
        found.append("weights are gathered beside the kernels, over the network where dp leaves the NVLink domain")
    for stage in stages.traced:
        found += [words for words in (stage.other.assumptions if stage.other else []) if words not in found]
    return found


def _numbers(found: list[int]) -> str:
    """`0`, or `1 to 14`."""
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
