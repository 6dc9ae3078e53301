"""A comparison in the terminal: verdict-like lines, differences, then the parameters collapsed by layer."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tpscope.compare.differences import joined
from tpscope.compare.result import Comparison
from tpscope.language.answer import FrameworkAnswer, ParameterRow, TrailLine
from tpscope.language.verdict import Severity, Status

_STATUS = {
    Status.OK: ("runs", "green"),
    Status.REFUSED: ("refuses", "yellow"),
    Status.UNSUPPORTED: ("unsupported", "yellow"),
    Status.CRASHED: ("crashes", "red"),
}
_SEVERITY = {
    Severity.WRONG: "bold red",
    Severity.BLOCKS: "red",
    Severity.IGNORED: "yellow",
    Severity.COST: "cyan",
    Severity.NOTE: "dim",
}
_SHORT = {"Replicate()": "replicated", **{f"Shard(dim={dim})": f"Shard({dim})" for dim in (0, 1, 2, -1)}}


def show(comparison: Comparison, console: Console, why: str | None = None, evidence: bool = False) -> None:
    """Print a comparison. `why` filters plan rows and trails by a pattern; `evidence` prints the whole trails."""
    model = comparison.model
    mark = "" if model.status != "unconfirmed" else " (unconfirmed configuration)"
    console.print(Text.assemble((model.name, "bold"), f"  {model.architecture}{mark}  ", (_layout(comparison), "bold")))
    for note in comparison.notes:
        console.print(Text(f"note: {note}", style="dim"))
    console.print()
    for column in comparison.frameworks:
        console.print(_verdict(column))
    console.print()
    # What a column refuses stands in its verdict line.
    differences = [difference for difference in comparison.differences if difference.subject != "status"]
    if differences:
        console.print(Text("What differs or surprises, worst first", style="bold"))
        for difference in differences:
            style = _SEVERITY[difference.severity]
            label = Text(f"{difference.severity.value:>8}  ", style=style)
            grid = Table.grid(padding=0)
            grid.add_column(width=10, no_wrap=True)
            grid.add_column(ratio=1)
            grid.add_row(label, Text(difference.meaning))
            console.print(grid)
        console.print()
    console.print(parameters(comparison, why))
    if why is not None or evidence:
        for column in comparison.frameworks:
            for line in _why(column, None if evidence else why):
                # Evidence lines stay whole, so that a terminal can open them.
                console.print(line, soft_wrap=True)


def _layout(comparison: Comparison) -> str:
    sizes = {axis: size for axis, size in comparison.layout.items() if axis not in ("world", "sequence_parallel")}
    said = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1) or "tp=1"
    return said + (", sequence parallel" if comparison.layout.get("sequence_parallel") else "")


def _verdict(column: FrameworkAnswer) -> RenderableType:
    word, colour = _STATUS[column.status]
    head = Text.assemble((f"{column.id}  ", "bold"), (word, f"bold {colour}"))
    lines: list[Text] = []
    if column.error is not None:
        where = column.error.where
        place = f"  {where.path}:{where.line}" if where else ""
        lines.append(Text(f"{column.error.message}{place}"))
    else:
        head.append(
            f"  {fraction(column.sharded_fraction)} of {_count(column.total_parameters)} parameters sharded, "
            f"plan level {column.selection.level}, {column.model_class.rpartition('.')[2]}"
        )
        source = column.selection.function
        lines.append(Text(f"plan from {source}" if source else "no plan found", style="dim"))
    if column.loop_error is not None:
        lines.append(Text("stops before the first optimizer step (see below)", style="red"))
    if reason := unobserved(column):
        lines.append(Text(f"gradients unobserved: {reason}", style="yellow"))
    for item in column.ignored:
        lines.append(Text(f"ignores {item['setting']}", style="yellow"))
    for item in column.environment.get("outside_pin", []):
        lines.append(
            Text(f"ran on {item['package']} {item['version']}, declared {item['declared'] or 'any'}", style="dim")
        )
    return Group(head, *(Padding(line, (0, 0, 0, 2)) for line in lines))


def unobserved(column: FrameworkAnswer) -> str | None:
    """Why nothing was seen of the gradients, where a column that runs has none."""
    reason = column.forward.get("unobserved")
    failed = column.forward.get("not_run", {}).get("gradient")
    return str(reason) if reason else f"{failed['kind']}: {failed['message']}" if failed else None


def fraction(share: float) -> str:
    """A share as a percentage that does not round up to all of it."""
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def _count(number: int) -> str:
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return str(number)


def parameters(comparison: Comparison, why: str | None = None) -> Table:
    """One row a parameter with layers collapsed; one column a framework: placement, style, gradient over tp."""
    running = [column for column in comparison.frameworks if column.status == Status.OK]
    tables = [joined(column) for column in running]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", expand=True)
    table.add_column("parameter (* = every layer)", overflow="fold", ratio=4)
    for column in running:
        table.add_column(column.id, overflow="fold", ratio=3)
    for name in dict.fromkeys(name for rows in tables for name in rows):
        if why is not None and not _matches(name, why):
            continue
        cells = [_cell(rows.get(name), column) for rows, column in zip(tables, running, strict=True)]
        table.add_row(name.removeprefix("model.").removesuffix(".weight"), *cells)
    return table


def _cell(rows: list[ParameterRow] | None, column: FrameworkAnswer) -> Text:
    if rows is None:
        return Text("-", style="dim")
    kinds = list(dict.fromkeys(row.placement for row in rows))
    text = Text(" / ".join(_SHORT.get(kind, kind.removeprefix("_")) for kind in kinds))
    rule = rows[0].rule
    style = next((row.style for row in column.plan if row.pattern == rule), None)
    if style and kinds != ["Replicate()"]:
        text.append(f" {style}", style="dim")
    loops = {row.gradient_loop.value for row in rows}
    if kinds == ["Replicate()"]:
        text.append(f"  grad: {'/'.join(sorted(loops))}", style="magenta" if loops != {"none"} else "dim")
    return text


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern if "*" in pattern else f"*{pattern}*")


def _why(column: FrameworkAnswer, pattern: str | None) -> Iterator[Text]:
    yield Text(f"\nWhy {column.id}", style="bold")
    for step in column.selection.order:
        yield Text(f"  {step.level:<10} if {step.tried_when}: {step.outcome}")
    for row in column.plan:
        if pattern is None or _matches(row.pattern, pattern):
            yield Text(
                f"  {row.pattern}: {row.style} ({row.kind}), input {row.input}, output {row.output}, forward "
                f"{', '.join(row.forward) or 'nothing'}, backward {', '.join(row.backward) or 'nothing'}, "
                f"gradient {row.gradient}"
            )
    yield Text("  lines that ran while the plan was chosen and applied:", style="dim")
    yield from _trail(column.selection.trail, pattern)
    if column.gradient_trail:
        yield Text("  lines that ran in the backward's hooks and up to the optimizer step:", style="dim")
        yield from _trail(column.gradient_trail, pattern)


def _trail(lines: Iterable[TrailLine], pattern: str | None) -> Iterator[Text]:
    for line in lines:
        # A row of a plan's table that is about another module says nothing about the one that was asked for.
        if pattern is None or not line.text.startswith(('"', "'", 'f"')) or _matches(line.text, pattern):
            yield Text(f"  {line.path}:{line.line}: {line.symbol}: {line.text}")
