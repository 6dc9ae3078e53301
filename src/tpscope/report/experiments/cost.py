"""Question Q1, timed: what the choice of a plan costs, beside what building, applying and a step cost.

python -m tpscope.report.experiments.cost [--with nemo@0.7.0 ...]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from pydantic import TypeAdapter

from tpscope.frameworks.registry import Target
from tpscope.language.measured.cost import Costs
from tpscope.report.experiments import asking
from tpscope.report.experiments.asking import Asker
from tpscope.report.experiments.cost_rows import Cost

# One with an optimized plan in NeMo, one whose plan has rules for its norms, one that no version's table holds.
MODELS = ("llama-3.1-8b", "qwen3-8b", "mistral-7b")
TP = 2
_COSTS = TypeAdapter(Costs)


def measure(asker: Asker, target: Target) -> Iterator[Cost]:
    """One row a model."""
    for model in MODELS:
        answer = asker.ask("cost", target, model, {}, tp=TP)
        found = _COSTS.validate_python(answer.value) if answer.error is None else None
        yield Cost(
            **asker.head(target, answer), model=model, tp=TP, load=answer.load, found=found
        )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment and record its rows."""
    return asking.main("cost", "What the choice of a plan costs.", measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
