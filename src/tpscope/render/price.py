"""Prices in the terminal, in 100 columns."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tpscope.price.check import Accuracies, Accuracy
from tpscope.price.cost import PHASES
from tpscope.price.matrix import Matrix
from tpscope.price.result import Pipeline, Priced, Prices, Traffic
from tpscope.price.run import sizes

_GIB = 2**30
_PARTS = (
    "compute", "memory-bound", "exposed communication", "overlapped communication", "pipeline bubble", "CPU dispatch",
)  # fmt: skip


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
        console.print(
            f"[bold]{column.id}[/]  {column.model_class.rpartition('.')[2]}, {column.optimizer}", highlight=False
        )
        if column.pipeline is not None:
            console.print(_stages(column.pipeline))
        console.print(_traffic(column))
        _words(column, console)


def _stages(found: Pipeline) -> Table:
    """One row a pipeline rank."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for head in ("pipeline rank", "layers", "and"):
        table.add_column(head)
    for head in ("ms a micro-batch", "peak GiB", "in flight"):
        table.add_column(head, justify="right")
    table.add_column("")
    for stage in found.stages:
        marks = [word for word, rank in (("slowest", found.slowest), ("fullest", found.fullest)) if rank == stage.rank]
        table.add_row(
            str(stage.rank), runs(stage.layers), ", ".join(stage.others), f"{stage.milliseconds:.0f}",
            f"{stage.peak_bytes / _GIB:.1f}", str(stage.in_flight), ", ".join(marks),
        )  # fmt: skip
    return table


def runs(numbers: list[int]) -> str:
    """`0 to 7, 64 to 71`."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in found)


def _words(column: Priced, console: Console) -> None:
    for waste in column.waste:
        if waste.sentence:
            modules = ", ".join(name.rpartition(".")[2] for name in waste.modules)
            console.print(f"  [yellow]{waste.sentence}[/] ({modules})", highlight=False, soft_wrap=True)
    if column.sequence_parallel is not None:
        console.print(f"  {column.sequence_parallel.sentence}", highlight=False, soft_wrap=True)
    for item in column.memory.phases:
        if item.phase == column.memory.phase:
            largest = ", ".join(f"{share.module or 'other'} {share.bytes / _GIB:.2f}" for share in item.largest[:5])
            console.print(f"  alive at the peak besides weights, GiB: {largest}", highlight=False, soft_wrap=True)
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
        **{f"  {name}": [_part(column, name) for column in columns] for name in _PARTS},
        **{f"  {phase} bound by": [column.time.bound_by.get(phase, "") for column in columns] for phase in PHASES},
        "tokens/s/GPU": [f"{column.time.tokens_per_second:.0f}" for column in columns],
        "MFU": [f"{column.time.mfu:.1%}" for column in columns],
        "peak memory": [f"{column.memory.peak_bytes / _GIB:.1f} GiB in {column.memory.phase}" for column in columns],
        **{
            f"  {name}": [_gib(column.memory.by_category.get(name, 0)) for column in columns]
            for name in dict.fromkeys(name for column in columns for name in column.memory.by_category)
        },
        **{
            f"  peak of {phase}": [_peak(column, phase) for column in columns]
            for phase in PHASES
        },
        "fits": ["yes" if column.fits else "no" for column in columns],
        "smallest TP that fits": [str(column.smallest_tp or "") for column in columns],
        "logits gathered": [_head(column) for column in columns],
        "collectives a layer": [_layered(column) for column in columns],
    }  # fmt: skip
    for name, values in rows.items():
        if any(values):
            table.add_row(name, *values)
    return table


def _layered(column: Priced) -> str:
    """`7 all_reduce (4 needed)`: of forward and backward together."""
    kinds = dict.fromkeys(waste.kind for waste in column.waste)
    sums = {
        kind: [
            sum(getattr(waste, what) for waste in column.waste if waste.kind == kind) for what in ("issued", "needed")
        ]
        for kind in kinds
    }
    return ", ".join(f"{issued:g} {kind} ({needed:g} needed)" for kind, (issued, needed) in sums.items() if issued)


def _peak(column: Priced, phase: str) -> str:
    return next((_gib(peak.bytes) for peak in column.memory.phases if peak.phase == phase), "")


def _part(column: Priced, name: str) -> str:
    return next((f"{part.ms:.0f} ms" for part in column.time.parts if part.name == name), "")


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 100 else "< 0.01 GiB" if size else ""


def _head(column: Priced) -> str:
    head = column.head
    if head.gathered_by is None:
        return head.logits
    return f"by the {head.gathered_by}, {head.dtype}, {_gib(head.bytes)}"


def _traffic(column: Priced) -> Table:
    """One row a kind of collective; those of one module and phase that differ in nothing else are one row."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for head, right in (
        ("phase", False), ("collective", False), ("module", False), ("layer", True), ("step", True), ("MB", True),
        ("ms", True), ("issued by", False),
    ):  # fmt: skip
        table.add_column(head, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for item in column.collectives:
        layer = f"{item.per_layer:g}" if item.per_layer else ""
        table.add_row(
            item.phase, f"{item.kind} {item.axis}", _short(item.module), layer, str(item.per_step),
            f"{item.bytes / 1e6:.1f}", f"{item.milliseconds:.1f}", _by(item),
        )  # fmt: skip
    return table


def _short(module: str) -> str:
    return module.removeprefix("model.").removeprefix("layers.*.") or "model"


def _by(item: Traffic) -> str:
    if item.evidence is None:
        return "autograd"
    file = item.evidence.path.rpartition("/")[2]
    return f"{file[:-3] if file.endswith('.py') else file}:{item.evidence.line}"


def show_matrix(found: Matrix, console: Console) -> None:
    """One row a cell, then in whose words there is no price."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for head in ("model", "tp", "framework", "machine"):
        table.add_column(head, no_wrap=True)
    for head in ("step ms", "compute", "memory", "exposed", "CPU", "tok/s/GPU", "GiB", "fits"):
        table.add_column(head, justify="right", no_wrap=True)
    for cell in found.cells:
        name = [cell.model, str(cell.tp), cell.framework, cell.hardware]
        if cell.said:
            table.add_row(*name, cell.status)
            continue
        parts = [f"{cell.parts.get(part, 0.0):.0f}" for part in (*_PARTS[:3], _PARTS[-1])]
        fits = "" if cell.fits is None else "yes" if cell.fits else "no"
        table.add_row(
            *name, f"{cell.step_ms:.0f}", *parts, f"{cell.tokens_per_second:.0f}", f"{cell.peak_bytes / _GIB:.1f}", fits
        )
    console.print(table)
    for said, framework in dict.fromkeys((cell.said, cell.framework) for cell in found.cells if cell.said):
        names = dict.fromkeys(cell.model for cell in found.cells if (cell.said, cell.framework) == (said, framework))
        console.print(f"{framework}, {', '.join(names)}: {said}", highlight=False, soft_wrap=True)
    standings = dict.fromkeys(f"{cell.hardware} {cell.standing}" for cell in found.cells if cell.standing)
    if standings:
        console.print(f"times: {', '.join(standings)}; bf16, AdamW, eager", style="dim", highlight=False)
    for machine, words in dict.fromkeys((cell.hardware, words) for cell in found.cells for words in cell.assumed):
        console.print(f"{machine}: {words}", style="dim", highlight=False, soft_wrap=True)


def show_check(held: Accuracies, console: Console) -> None:
    """Predicted against measured: a row a case, then what it comes to."""
    console.print(f"[bold]{held.hardware}[/], {held.status}", highlight=False)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for head in ("framework", "model", "setting"):
        table.add_column(head, no_wrap=True)
    for head in ("ms", "price", "error", "GiB", "price", "error"):
        table.add_column(head, justify="right")
    table.add_column("")
    for item in held.held:
        memory = (
            (f"{item.measured_bytes / _GIB:.1f}", f"{item.predicted_bytes / _GIB:.1f}", f"{item.memory_error:+.1%}")
            if item.memory_error is not None
            else ("", f"{item.predicted_bytes / _GIB:.1f}", "")
        )
        table.add_row(
            *item.case.split(" ", 2), f"{item.measured_ms:.0f}", f"{item.predicted_ms:.0f}",
            f"{item.time_error:+.1%}", *memory, "calibrated on" if item.used else "",
        )  # fmt: skip
    console.print(table)
    for name, found in (("not calibrated on", held.accuracy), ("calibrated on", held.calibrated_on)):
        if found.cases:
            console.print(f"{name}: {_accuracy(found)}", highlight=False, soft_wrap=True)
    for one in held.left_out:
        ms = f", {one.measured_ms:.0f} ms measured" if one.measured_ms is not None else ""
        console.print(
            f"  left out: {one.case} ({one.loss or 'default loss'}{ms}): {one.why}",
            style="dim", highlight=False, soft_wrap=True,
        )  # fmt: skip


def _accuracy(found: Accuracy) -> str:
    words = (
        f"{found.cases} cases, time error {found.median_time_error:.1%} median and {found.worst_time_error:.1%} worst"
    )
    if found.median_memory_error is not None:
        words += f", peak memory {found.median_memory_error:.1%} median and {found.worst_memory_error:.1%} worst"
    words += f"; order kept in {found.ordered} of {found.pairs} pairs that differ by more than 5 %"
    return f"{words}, and in {found.apart_ordered} of the {found.apart} of them whose repeats do not overlap"
