"""Prices in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tpscope.price.cost import PHASES
from tpscope.price.result import Priced, Prices
from tpscope.price.run import sizes

_GIB = 2**30


def show(prices: Prices, console: Console) -> None:
    """One screen: time, memory, traffic, the head; then what was assumed."""
    console.print(
        f"[bold]{prices.model.name}[/]  {sizes(prices.layout)}  batch {prices.batch} x {prices.sequence} tokens  "
        f"{prices.hardware}", highlight=False,
    )  # fmt: skip
    console.print(_summary(prices))
    for column in prices.frameworks:
        if column.error is not None:
            console.print(f"{column.id}: {column.status.value}: {column.error.message}", style="red", highlight=False)
            continue
        console.print()
        console.print(f"[bold]{column.id}[/]  {column.model_class.rpartition('.')[2]}, {column.optimizer}", highlight=False)
        console.print(_traffic(column))
        for words in column.assumptions:
            console.print(f"  assumed: {words}", style="dim", highlight=False, soft_wrap=True)


def _summary(prices: Prices) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    columns = [column for column in prices.frameworks if column.error is None]
    for column in columns:
        table.add_column(column.id, justify="right")
    rows = {
        "step time": [f"{column.time.ms:.0f} ms ({column.time.status})" for column in columns],
        **{
            f"  {name}": [_part(column, name) for column in columns]
            for name in ("compute", "memory-bound", "exposed communication", "CPU dispatch")
        },
        **{f"  {phase} bound by": [column.time.bound_by.get(phase, "") for column in columns] for phase in PHASES},
        "tokens/s/GPU": [f"{column.time.tokens_per_second:.0f}" for column in columns],
        "peak memory": [f"{column.memory.peak_bytes / _GIB:.1f} GiB in {column.memory.phase}" for column in columns],
        **{
            f"  {name}": [_gib(column.memory.by_category.get(name, 0)) for column in columns]
            for name in dict.fromkeys(name for column in columns for name in column.memory.by_category)
        },
        "fits": ["yes" if column.fits else "no" for column in columns],
        "logits": [_head(column) for column in columns],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    return table


def _part(column: Priced, name: str) -> str:
    return next((f"{part.ms:.0f} ms" for part in column.time.parts if part.name == name), "")


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size else ""


def _head(column: Priced) -> str:
    head = column.head
    if head.gathered_by is None:
        return head.logits
    return f"gathered by the {head.gathered_by}, {head.dtype}, {_gib(head.bytes)}"


def _traffic(column: Priced) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 2))
    for head in ("phase", "collective", "module", "a layer", "a step", "payload", "on the wire", "ms", "issued by"):
        table.add_column(head, justify="right" if head in ("a layer", "a step", "payload", "on the wire", "ms") else "left")
    for item in column.collectives:
        where = f"{item.evidence.path.rpartition('/')[2]}:{item.evidence.line}" if item.evidence else "autograd"
        table.add_row(
            item.phase, f"{item.kind} {item.axis}", item.module, f"{item.per_layer:g}" if item.per_layer else "",
            str(item.per_step), f"{item.bytes / 1e6:.1f} MB", f"{item.wire_bytes / 1e6:.1f} MB",
            f"{item.milliseconds:.1f}", where,
        )  # fmt: skip
    return table
