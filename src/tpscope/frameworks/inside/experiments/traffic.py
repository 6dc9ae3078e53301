"""One small step twice: on fake tensors in one process, and with real numbers on real ranks."""

from __future__ import annotations

from typing import Any

from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.price import ranks, step


def answer(family: str, case: Case, options: dict[str, Any]) -> dict[str, Any]:
    """The collectives of both. `options`: `batch` and `sequence`, and a `config` that is small enough."""
    batch, sequence, config = options["batch"], options["sequence"], options["config"]
    case.folder = step.written(case, "real", config)
    real = ranks.issued(family, case, batch, sequence)
    asked = {"config": config, "start": 0, "period": 1, "end": 0}
    trace = step.answer(family, case, {"batch": batch, "sequence": sequence, "configs": [asked]})[0]
    return {"real": real, "traced": trace.collectives, "stopped": trace.stopped}
