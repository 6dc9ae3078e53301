"""The trace of a step in one framework: asked with few layers where layers repeat, kept for the next time."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import tpscope
from tpscope.compare.run import Pool, Question
from tpscope.frameworks.registry import Target
from tpscope.language.answer import Failure
from tpscope.language.measured.price import StepTrace
from tpscope.models.repeat import Repeat, cut, repeat_of
from tpscope.price import scale

_TRACES = TypeAdapter(list[StepTrace])
SECONDS = 900.0


@dataclass(frozen=True)
class Step:
    """What is trained besides a model and its layout: samples and tokens of one micro-batch of a rank, a loss by its
    class (the framework's default if empty), and what of the activations is made again in the backward: nothing, "full"
    or "selective"."""

    batch: int
    sequence: int
    loss: str = ""
    recompute: str = ""

    @property
    def tokens(self) -> int:
        """Of one micro-batch of a rank."""
        return self.batch * self.sequence


@dataclass
class Traced:
    """A step of the whole model, or why there is none."""

    trace: StepTrace | None = None
    error: Failure | None = None
    shims: list[str] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def traced(question: Question, target: Target, pool: Pool, step: Step, whole: bool = False) -> Traced:
    """The step of one micro-batch of a rank. `whole` traces every layer even where they repeat."""
    config = question.model.config
    repeat = None if whole else repeat_of(config)
    counts = scale.COUNTS
    if repeat is not None and sum(len(repeat.layers(count)) for count in counts) >= repeat.total:
        repeat = None
    asked = [_whole(config)] if repeat is None else [_part(config, repeat, count) for count in counts]
    options = {**asdict(step), "configs": asked}
    answer = pool.kept_experiment("price", question, target, options, SECONDS, code())
    result = Traced(None, answer.error, answer.shims, answer.packages, answer.seconds)
    if answer.error is not None:
        return result
    traces = _TRACES.validate_python(answer.value)
    if repeat is None:
        result.trace = traces[0]
        result.trace.assumptions.append(f"all {traces[0].layers} layers were traced")
        return result
    missed = scale.misses(scale.scaled(traces, counts, counts[2], traces[2].layers), traces[2])
    if missed:
        again = traced(question, target, pool, step, whole=True)
        if again.trace is not None:
            again.trace.assumptions.append(f"fewer layers do not scale exactly ({', '.join(missed)})")
        return again
    result.trace = scale.scaled(traces, counts, repeat.periods, repeat.total)
    result.trace.assumptions.append(_said(repeat, traces))
    return result


def _said(repeat: Repeat, traces: list[StepTrace]) -> str:
    few, more, third = (trace.layers for trace in traces)
    words = (
        f"traced with {few} and {more} layers and scaled to {repeat.total}; a trace with {third} is on the line exactly"
    )
    return words if repeat.period == 1 else f"{words} (layers repeat every {repeat.period})"


def _whole(config: dict[str, Any]) -> dict[str, Any]:
    return {"config": config, "start": 0, "period": 1, "end": 0}


def _part(config: dict[str, Any], repeat: Repeat, count: int) -> dict[str, Any]:
    return {"config": cut(config, repeat, count), "start": repeat.start, "period": repeat.period, "end": repeat.end}


@cache
def code() -> str:
    """Names the code that traces: a trace of other code is not reused."""
    package = Path(tpscope.__file__).parent
    inside = package / "frameworks" / "inside"
    files = [*sorted((inside / "price").glob("*.py")), package / "language" / "measured" / "price.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
