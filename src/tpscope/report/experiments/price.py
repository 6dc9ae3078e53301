"""The performance prediction matrix of the study, recorded: `python -m tpscope.report.experiments.price`.

Models of the study at two TP sizes on two machines, for the newest version of each framework; and what was measured on
GPUs, priced for the machine that it was measured on, for all versions of the study.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tpscope.frameworks.registry import Target
from tpscope.price import hardware
from tpscope.price.matrix import Cell, cells
from tpscope.report.experiments.asking import Asker, main
from tpscope.report.experiments.price_rows import Price
from tpscope.report.runs import FRAMEWORKS, MODELS

SIZES = (2, 8)
MACHINES = ("h200", "h100")
SEQUENCE = 4096
NEWEST = FRAMEWORKS[1::2]
# What bench measured beside the matrix: model, TP size and sequence.
MEASURED_ON = "h200"
MEASURED = tuple((model, 2, sequence) for model in ("llama-3.1-8b", "qwen3-8b") for sequence in (2048, 8192))


def measure(asker: Asker, target: Target) -> Iterator[Price]:
    """The cells of one framework."""
    asker.pool.prepare([target])
    for model in MODELS if target.id in NEWEST else ():
        for size in SIZES:
            yield from _rows(asker, target, model, size, SEQUENCE, MACHINES)
    for model, size, sequence in MEASURED:
        yield from _rows(asker, target, model, size, sequence, (MEASURED_ON,))


def _rows(
    asker: Asker, target: Target, model: str, size: int, sequence: int, machines: tuple[str, ...]
) -> Iterator[Price]:
    named = {name: hardware.machine(name) for name in machines}
    found: list[Cell] = list(cells(model, size, target, named, asker.pool, 1, sequence))
    print(f"{model} tp={size} seq={sequence}: {found[0].said or f'{found[0].step_ms:.0f} ms'}", flush=True)
    for cell in found:
        yield Price(**asker.head(target), cell=cell)


if __name__ == "__main__":
    sys.exit(main("price", "The performance prediction matrix, recorded.", measure))
