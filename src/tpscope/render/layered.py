"""A flow in layers as inline SVG: boxes that take the same input side by side, every arrow straight down.

For flows from top to bottom in which a node feeds several others and is fed by several, as in one decoder layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from tpscope.render.diagram import LINE, PAD, Flow, Node, box, said, wrapped

_WIDTH, _GAP, _BETWEEN = 348.0, 44.0, 8.0
_CHARACTER = 6.7


def svg(flow: Flow, number: int, title: str) -> str:
    """An inline SVG with title and description; `number` makes its ids unique in the page."""
    levels = _levels(flow)
    rows = [[node for node in flow.nodes if levels[node.id] == level] for level in range(max(levels.values()) + 1)]
    ranges = _ranges(flow, rows)
    tops: dict[str, tuple[float, float]] = {}
    height = 2.0
    lines = {
        node.id: wrapped(node.text, max(8, int((ranges[node.id][1] - 2 * PAD) / _CHARACTER))) for node in flow.nodes
    }
    for row in rows:
        tall = float(max(len(lines[node.id]) for node in row) * LINE + 2 * PAD)
        for node in row:
            tops[node.id] = (height, tall)
        height += tall + _GAP
    height += 2 - _GAP
    shapes: list[str] = []
    for one, to, word in flow.edges:
        shapes += _edge(one, to, word, ranges, tops, number)
    for node in flow.nodes:
        (x, width), (y, tall) = ranges[node.id], tops[node.id]
        shapes += box(node, x, y, width, tall, lines[node.id])
    return (
        f'<svg class="flow" role="img" aria-labelledby="flow-{number}-title flow-{number}-said" '
        f'width="{_WIDTH:g}" height="{height:g}" viewBox="0 0 {_WIDTH:g} {height:g}">'
        f'<title id="flow-{number}-title">{escape(title)}</title>'
        f'<desc id="flow-{number}-said">{escape(said(flow))}</desc>'
        f'<defs><marker id="flow-{number}-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>{"".join(shapes)}</svg>'
    )


def _levels(flow: Flow) -> dict[str, int]:
    """A node stands under all that it takes from. Arrows go from nodes to later ones."""
    levels: dict[str, int] = {}
    for node in flow.nodes:
        levels[node.id] = 1 + max((levels[one] for one, to, _ in flow.edges if to == node.id), default=-1)
    return levels


def _ranges(flow: Flow, rows: list[list[Node]]) -> dict[str, tuple[float, float]]:
    """Left edge and width of every box: a row shares the width, unless each box continues one column above it."""
    found: dict[str, tuple[float, float]] = {}
    whole = (1.0, _WIDTH - 2)
    for row in rows:
        above = [[one for one, to, _ in flow.edges if to == node.id] for node in row]
        single = [found[sources[0]] for sources in above if len(sources) == 1]
        columns = len(single) == len(row) == len(set(single)) and whole not in single
        width = (whole[1] - _BETWEEN * (len(row) - 1)) / len(row)
        for index, node in enumerate(row):
            found[node.id] = single[index] if columns else (whole[0] + index * (width + _BETWEEN), width)
    return found


def _edge(
    one: str,
    to: str,
    word: str,
    ranges: dict[str, tuple[float, float]],
    tops: dict[str, tuple[float, float]],
    number: int,
) -> Iterator[str]:
    narrow = min(ranges[one], ranges[to], key=lambda item: item[1])
    x = narrow[0] + narrow[1] / 2
    y, end = sum(tops[one]), tops[to][0]
    yield f'<path class="arrow" d="M{x:g} {y:g}L{x:g} {end:g}" marker-end="url(#flow-{number}-tip)"/>'
    if word:
        # Beside the box that it leaves: a row between may stand beside a longer arrow.
        yield f'<text class="on-arrow layout" x="{x:g}" y="{y + 21:g}">{escape(word)}</text>'
