"""The learning rate over a run, by each framework's own code on its own file."""

from __future__ import annotations

import json
from collections.abc import Callable

from tpscope.compare.run import Pool, Question
from tpscope.language.layout import Layout
from tpscope.migrate.checks import Side
from tpscope.migrate.result import Check, Standing
from tpscope.migrate.source import number, stated
from tpscope.models.catalog import by_name

STEPS = 200
_SMALL = "llama-3.1-8b"
_CLOSE = 1e-6
_MAX = {"axolotl": "max_steps", "nemo": "step_scheduler.max_steps"}


def compared(sides: list[Side], say: Callable[[str, str], None], steps: int | None = None) -> Check:
    """Both schedules step by step, over the file's own max_steps or `STEPS`."""
    most = number(stated(sides[0].data, _MAX[sides[0].kind]))
    steps = steps or (most if isinstance(most, int) and 0 < most <= 10_000 else STEPS)
    entry = by_name(_SMALL)
    assert entry is not None
    rates: list[list[float]] = []
    with Pool(say) as pool:
        for side in sides:
            data = json.loads(json.dumps(side.data, default=str))
            question = Question(entry.spec(), Layout())
            answer = pool.experiment("rates", question, side.target, {"data": data, "steps": steps})
            if answer.error is not None:
                words = f"{side.target.id}: {answer.error.kind}: {answer.error.message}"
                return Check("learning rate", Standing.UNCHECKED, words)
            rates.append(answer.value["rates"])
    left, right = rates
    peak = max(left) or 1.0
    worst = max(range(steps), key=lambda step: abs(left[step] - right[step]))
    apart = abs(left[worst] - right[worst]) / peak
    if apart <= _CLOSE:
        return Check("learning rate", Standing.OK, f"the same at each of {steps} steps, by both frameworks' code")
    why = f"furthest apart at step {worst + 1} of {steps}: {100 * apart:.2g} % of the peak"
    return Check("learning rate", Standing.TOLD, why, left[worst], right[worst])
