"""Pipeline stages by the framework's own splitter: `python -m tpscope.report.experiments.pipeline`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from pydantic import TypeAdapter

from tpscope.frameworks.registry import Target
from tpscope.language.answer import Failure
from tpscope.report.experiments.asking import Asker, main
from tpscope.report.experiments.pipeline_rows import Pipeline, Schedule, Stage
from tpscope.report.runs import EXAMPLE, FRAMEWORKS

PP, TP = 2, 2
SCHEDULE = "1f1b"
# One model whose head is a parameter of its own, and one whose head is tied to the embedding.
MODELS = (EXAMPLE, "llama-3.2-1b")


_STAGES, _SCHEDULES = TypeAdapter(list[Stage]), TypeAdapter(list[Schedule])
_FAILURE = TypeAdapter(Failure | None)


def measure(asker: Asker, target: Target) -> Iterator[Pipeline]:
    """Both models; the names of schedules are tried with the first."""
    for model in MODELS:
        options = {"schedule": SCHEDULE, "schedules": model == MODELS[0]}
        answer = asker.ask("pipeline", target, model, options, pp=PP, tp=TP)
        found = answer.value or {}
        error = _bare(_FAILURE.validate_python(found.get("error")) or answer.error)
        schedules = _SCHEDULES.validate_python(found.get("schedules", []))
        for schedule in schedules:
            schedule.error = _bare(schedule.error)
        stages = _STAGES.validate_python(found.get("stages", []))
        yield Pipeline(
            **asker.head(target, answer), model=model, pp=PP, tp=TP, schedule=SCHEDULE, stages=stages, error=error,
            schedules=schedules,
        )  # fmt: skip


def _bare(error: Failure | None) -> Failure | None:
    """Without the traceback, which names folders of this machine."""
    return Failure(error.kind, error.message, error.phase, error.where) if error else None


if __name__ == "__main__":
    splitters = [name for name in FRAMEWORKS if name.startswith("nemo@")]
    sys.exit(main("pipeline", "Pipeline stages by the framework's own splitter.", measure, frameworks=splitters))
