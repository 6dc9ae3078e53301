"""The performance prediction matrix: models x TP sizes x frameworks x machines, a step traced once for all machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from tpscope.compare.ask import Wishes, question
from tpscope.compare.run import Pool
from tpscope.errors import UserError
from tpscope.frameworks.registry import Target
from tpscope.price.cost import PHASES, parts_of, queued
from tpscope.price.hardware import Machine
from tpscope.price.result import Priced
from tpscope.price.run import Setting, priced
from tpscope.price.trace import Step, traced

_WITHOUT_STEP = PHASES[:-1]


@dataclass
class Cell:
    """One price. `step_ms` is the step, `pass_ms` its forward, loss and backward alone; bytes are of one rank, those
    sent by kind of collective in a step. `said` is what a framework raised where there is no price; `assumed` is what
    every price on the machine takes for granted."""

    model: str
    tp: int
    framework: str
    hardware: str
    batch: int
    sequence: int
    status: str = "ok"
    said: str = ""
    standing: str = ""
    step_ms: float = 0.0
    pass_ms: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    tokens_per_second: float = 0.0
    mfu: float = 0.0
    peak_bytes: int = 0
    by_category: dict[str, int] = field(default_factory=dict)
    sent_bytes: dict[str, int] = field(default_factory=dict)
    logits: str = ""
    loss: str = ""
    fits: bool | None = None
    assumed: list[str] = field(default_factory=list)


@dataclass
class Matrix:
    """`tpscope.price-matrix/1`."""

    cells: list[Cell] = field(default_factory=list)
    schema: str = "tpscope.price-matrix/1"


def matrix(
    models: Iterable[str], sizes: Iterable[int], targets: list[Target], machines: Mapping[str, Machine], pool: Pool,
    batch: int, sequence: int,
) -> Matrix:  # fmt: skip
    """Every cell, models slowest, machines fastest. Raises UserError for a model that is not known."""
    pool.prepare(targets)
    result = Matrix()
    for model in models:
        for size in sizes:
            columns = pool.each(
                lambda target, model=model, size=size: list(  # type: ignore[misc]
                    cells(model, size, target, machines, pool, batch, sequence)
                ),
                targets,
            )
            result.cells += [cell for column in columns for cell in column]
    return result


def cells(
    model: str, tp: int, target: Target, machines: Mapping[str, Machine], pool: Pool, batch: int, sequence: int
) -> Iterator[Cell]:
    """The step of one framework on every machine."""
    asked = question(model, Wishes(tp=tp))
    found = traced(asked, target, pool, Step(batch, sequence))
    for name, machine in machines.items():
        column = priced(target.id, found, asked, Setting(machine, name, batch, sequence))
        cell = _cell(column, Cell(model, tp, target.id, name, batch, sequence, assumed=machine.assumed))
        stopped = found.trace.stopped if found.trace else None
        if stopped is not None and stopped.phase in _WITHOUT_STEP:
            # What ran up to there is no step.
            bare = Cell(model, tp, target.id, name, batch, sequence, "stops")
            yield replace(bare, said=f"its own {stopped.phase} raises {stopped.kind}: {stopped.message}")
            continue
        if found.trace is not None:
            seconds, _ = queued(parts_of(found.trace, machine, asked.layout), _WITHOUT_STEP)
            cell = replace(cell, pass_ms=round(seconds * 1e3, 3))
        yield cell


def _cell(column: Priced, cell: Cell) -> Cell:
    if column.error is not None:
        return replace(cell, status=column.status.value, said=f"{column.error.kind}: {column.error.message}")
    sent: Counter[str] = Counter()
    for item in column.collectives:
        sent[item.kind] += item.wire_bytes * item.per_step
    head = column.head
    return replace(
        cell, standing=column.time.status, step_ms=column.time.ms,
        parts={part.name: round(part.ms, 3) for part in column.time.parts},
        tokens_per_second=column.time.tokens_per_second, mfu=column.time.mfu, peak_bytes=column.memory.peak_bytes,
        by_category=column.memory.by_category, sent_bytes=dict(sent), fits=column.fits,
        loss=column.loss,
        logits=f"gathered by the {head.gathered_by}, {head.dtype}" if head.gathered_by else head.logits,
    )  # fmt: skip


def numbers(text: str) -> list[int]:
    """`1,2,4` as numbers. Raises UserError for what is none."""
    found = []
    for word in text.split(","):
        if not word.strip().isdigit() or int(word) < 1:
            raise UserError(f"--tp {text}: {word.strip()!r} is no number of ranks; name one, or several as 2,4,8")
        found.append(int(word))
    return found


def words(text: str) -> list[str]:
    """`h200,h100` as words."""
    return [word.strip() for word in text.split(",") if word.strip()]
