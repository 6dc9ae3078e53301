"""The data flow of one decoder layer as it ran: `python -m tpscope.report.experiments.block`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tpscope.frameworks.registry import Target
from tpscope.language.measured.layer import Visit
from tpscope.report.experiments.asking import Asker, main
from tpscope.report.experiments.block_rows import Block
from tpscope.report.runs import WITH_SEQUENCE_PARALLEL

TP = 2
# Models whose layers differ: a plain one, one with q/k norms, one with four norms, one with fused projections.
MODELS = ("llama-3.1-8b", "qwen3-8b", "gemma-3-27b", "phi-3-mini")


def measure(asker: Asker, target: Target) -> Iterator[Block]:
    """Every model, and once more with sequence parallelism where the study asks that of it."""
    for model in MODELS:
        for sequence_parallel in (False, True) if model in WITH_SEQUENCE_PARALLEL else (False,):
            answer = asker.ask("block", target, model, {}, tp=TP, sequence_parallel=sequence_parallel)
            found = answer.value or {}
            # Storages are addresses: they are told apart by number, first seen first.
            seen: dict[int, int] = {0: 0}
            visits = [Visit(**visit) for visit in found.get("visits", [])]
            for visit in visits:
                visit.takes = seen.setdefault(visit.takes, len(seen))
                visit.gives = seen.setdefault(visit.gives, len(seen))
            head = asker.head(target, answer)
            unobserved = found.get("unobserved", "") or found.get("error", "")
            yield Block(
                **head, model=model, tp=TP, sequence_parallel=sequence_parallel, layer=found.get("layer", ""),
                kind=found.get("kind", ""), visits=visits, unobserved=unobserved,
            )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main("block", "The data flow of one decoder layer as it ran.", measure))
