"""Pieces of Markdown that the sections are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import prod

from tpscope.language.answer import Step, TrailLine
from tpscope.render.markdown import table as markdown_table
from tpscope.report.rows import Column

ABSENT = "-"


def not_yet(verb: str) -> str:
    """What stands where no run could say anything: the verb that will fill it."""
    return f"not measured yet ({verb})"


def table(sentence: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """One sentence on how it was obtained, then the table. Without rows: `not measured yet (compare)`."""
    if not rows:
        return [f"{sentence} {not_yet('compare').capitalize()}.", ""]
    for row in rows:
        assert len(row) == len(head), f"{sentence}: {row} does not fit {head}"
        assert all(cell.strip() for cell in row), f"{sentence}: a cell is empty in {row}"
    return [sentence, "", *markdown_table(list(head), [list(row) for row in rows]), ""]


def code(text: str) -> str:
    """Text as inline code."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def place(text: str) -> str:
    """A placement, shorter: `Shard(0)` for `Shard(dim=0)`."""
    short = text.replace("Replicate()", "Replicate").replace("_Strided", "Strided")
    return re.sub(r"(dim|split_factor)=", "", short)


def at(line: TrailLine | None) -> str:
    """Path and line of a source line."""
    return f"`{line.path}:{line.line}`" if line else "no line known"


def quote(line: TrailLine, by: str = "") -> str:
    """A source line with where it stands."""
    symbol = f" in `{line.symbol}`" if line.symbol else ""
    return f"- {by}{at(line)}{symbol}: {code(line.text)}"


def quoted(column: Column | None, patterns: Iterable[str], limit: int = 3) -> list[str]:
    """Lines that ran, the first that matches each pattern: of the selection first, then of the gradients."""
    if column is None:
        return []
    found: dict[tuple[str, int], str] = {}
    for pattern in patterns:
        for line in [*column.selection.trail, *column.gradient_trail]:
            if re.search(pattern, line.text) and (line.path, line.line) not in found:
                found[line.path, line.line] = quote(line, f"{column.id}: ")
                break
    return list(found.values())[:limit]


def selection_diagram(steps: list[Step]) -> list[str]:
    """A decision tree in Mermaid: what selection asks, in its order; the step that gave the plan is marked."""
    lines = ["```mermaid", "flowchart TD", '    s["which plan?"]']
    before, word = "s", ""
    for index, step in enumerate(steps):
        last = step.tried_when == "nothing else gave a plan"
        if not last:
            lines.append(f'    {before} -->{word} q{index}{{"{_label(step.tried_when)}?"}}')
            before, word = f"q{index}", "|yes|"
        lines.append(f'    {before} -->{word} p{index}["{_label(step.level)}"]')
        word = "|no|"
        if step.outcome == "gave the plan":
            lines.append(f"    style p{index} stroke-width:4px")
    return [*lines, "```", ""]


def chain_diagram(labels: list[str]) -> list[str]:
    """A chain of boxes in Mermaid, left to right."""
    lines = ["```mermaid", "flowchart LR"]
    lines += [f'    n{index}["{_label(label)}"]' for index, label in enumerate(labels)]
    lines += [f"    n{index} --> n{index + 1}" for index in range(len(labels) - 1)]
    return [*lines, "```", ""]


def mesh_diagram(axes: dict[str, int]) -> list[str]:
    """A mesh in Mermaid: a box for the ranks that differ only in the last axis, in frames for the axes before it.

    Ranks are numbered with the last axis fastest. The comment has the axes, for those who draw it themselves.
    """
    named = " ".join(f"{axis}={size}" for axis, size in axes.items())
    lines = ["```mermaid", "flowchart LR", f"    %% mesh {named}"]
    *outer, (last, size) = [(axis, count) for index, (axis, count) in enumerate(axes.items()) if count > 1
                            or index == len(axes) - 1]  # fmt: skip
    lines += _frames(outer, last, size, 0, "m", "    ")
    return [*lines, "```", ""]


def _frames(outer: list[tuple[str, int]], last: str, size: int, first: int, name: str, indent: str) -> list[str]:
    if not outer:
        ranks = ", ".join(str(first + index) for index in range(size))
        return [f'{indent}{name}["{last}: ranks {ranks}"]']
    (axis, count), *inner = outer
    step = prod([number for _, number in inner]) * size
    lines = []
    for index in range(count):
        lines.append(f'{indent}subgraph {name}{index}["{axis} {index}"]')
        lines += _frames(inner, last, size, first + index * step, f"{name}{index}_", indent + "    ")
        lines.append(f"{indent}end")
    return lines


def flow_diagram(nodes: Iterable[tuple[str, str]], edges: Iterable[tuple[str, str, str]]) -> list[str]:
    """A data flow in Mermaid, from top to bottom: nodes as id and text, edges as from, to and the word on them."""
    lines = ["```mermaid", "flowchart TD"]
    lines += [f'    {name}["{_label(text)}"]' for name, text in nodes]
    lines += [f"    {one} -->{f'|{word}|' if word else ''} {to}" for one, to, word in edges]
    return [*lines, "```", ""]


def plotted(kind: str) -> list[str]:
    """A mark before the sentence of a table: a page draws the table as well. `kind` is one of render/plot.py."""
    return [f"<!-- plot: {kind} -->", ""]


def _label(text: str) -> str:
    return text.replace('"', "#quot;")


def counted(counts: dict[str, int]) -> str:
    """`4 all_reduce, 1 all_gather`, or `none`."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()) if count) or "none"


def duration(microseconds: float) -> str:
    """A time with its unit: `26 µs`, `1.0 ms`, `0.53 s`."""
    size, unit = next(
        ((size, unit) for size, unit in ((1e6, "s"), (1e3, "ms")) if microseconds >= size / 2), (1.0, "µs")
    )  # fmt: skip
    value = microseconds / size
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.2g} {unit}"


def percent(fraction: float) -> str:
    """A share with the two digits that say something: `0.031 %`."""
    return f"{float(f'{100 * fraction:.2g}'):g} %"


def listed(items: Iterable[str], empty: str = "none") -> str:
    """Items joined by commas, each once."""
    return ", ".join(dict.fromkeys(items)) or empty


def together(items: Iterable[str]) -> str:
    """Runs or other phrases that hold commas themselves, each once."""
    return "; ".join(dict.fromkeys(items)) or "none"


def anchor(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
