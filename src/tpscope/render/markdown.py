"""A comparison as Markdown: what goes into an issue or a pull request."""

from __future__ import annotations

from tpscope.compare.differences import joined
from tpscope.compare.result import Comparison
from tpscope.language.answer import FrameworkAnswer
from tpscope.language.verdict import Status


def page(comparison: Comparison) -> str:
    """The comparison as one Markdown text."""
    columns = comparison.frameworks
    running = [column for column in columns if column.status == Status.OK]
    sizes = {key: value for key, value in comparison.layout.items() if key not in ("world", "sequence_parallel")}
    lines = [f"# {comparison.model.name}", ""]
    lines += [f"{comparison.model.architecture}, " + ", ".join(f"{axis}={size}" for axis, size in sizes.items()), ""]
    lines += table(["", *(column.id for column in columns)], _facts(columns))
    lines += ["", "## Differences, worst first", ""]
    lines += [f"- **{item.severity.value}**: {escape(item.meaning)}" for item in comparison.differences] or ["None."]
    tables = [joined(column) for column in running]
    rows = []
    for name in dict.fromkeys(name for found in tables for name in found):
        cells = []
        for found in tables:
            mine = found.get(name)
            if mine is None:
                cells.append("-")
                continue
            kinds = " / ".join(dict.fromkeys(row.placement for row in mine))
            loops = "/".join(sorted({row.gradient_loop.value for row in mine}))
            cells.append(f"{kinds}, gradient {loops}")
        rows.append([f"`{name}`", *cells])
    lines += ["", "## Parameters on the tp axis", ""]
    lines += table(["parameter", *(column.id for column in running)], rows)
    return "\n".join(lines) + "\n"


def _facts(columns: list[FrameworkAnswer]) -> list[list[str]]:
    return [
        ["status", *(_status(column) for column in columns)],
        ["plan level", *(column.selection.level or "-" for column in columns)],
        ["plan from", *(f"`{column.selection.function}`" if column.selection.function else "-" for column in columns)],
        ["model class", *(f"`{column.model_class}`" if column.model_class else "-" for column in columns)],
        ["sharded", *(f"{column.sharded_fraction:.2%}" if column.parameters else "-" for column in columns)],
        ["ignored", *(", ".join(item["setting"] for item in column.ignored) or "-" for column in columns)],
    ]


def _status(column: FrameworkAnswer) -> str:
    if column.error is None:
        return column.status.value
    where = f" (`{column.error.where.path}:{column.error.where.line}`)" if column.error.where else ""
    return f"{column.status.value}: {column.error.message}{where}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table as lines."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows]


def escape(text: str) -> str:
    """A text that cannot end a table cell."""
    return text.replace("|", "\\|").replace("\n", " ")
