"""The mesh as a drawing: every rank a square, every tp group a frame, the outer axes as labelled frames around them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from math import prod

from tpscope.language.layout import AXES

MOST_RANKS = 1024
NUMBERED_RANKS = 128
_WIDEST = 920.0
_ASPECT = 2.4
_CHARACTER = 6.4
_LABEL = 15.0


@dataclass(frozen=True)
class Pen:
    """Lengths in pixels: the side of a rank's cell, the room inside a frame, the room between frames."""

    square: float
    pad: float
    gap: float


_NUMBERED = Pen(26, 4, 8)
_SMALL = Pen(11, 3, 7)


@dataclass(frozen=True)
class Box:
    """The size of one block of the drawing: a tp group, or all indices of an axis around smaller blocks.

    `columns` children (ranks or blocks) stand side by side. `gutter` is the room left of every line of children for its
    label; where it is 0, every child has its own label above it.
    """

    axis: str
    count: int
    columns: int
    width: float
    height: float
    gutter: float = 0.0
    child: Box | None = None


def rank_grid(layout: dict[str, int], name: str = "rank") -> str:
    """An inline SVG of all ranks of a layout (axis name to size; what is missing has size 1), tp fastest.

    `name` makes its ids unique in a page that has several.

    Rank numbers are in the squares up to 128 ranks and in the titles of the squares always. Of a world of more than
    1024 ranks the first ones are drawn, whole indices of the slower axes, and the description says so.
    """
    sizes = {axis: int(layout.get(axis, 1)) for axis in AXES}
    shown = _clip(sizes)
    drawn, world = prod(shown.values()), prod(sizes.values())
    pen = _NUMBERED if drawn <= NUMBERED_RANKS else _SMALL
    box = _tile(shown["tp"], pen)
    for axis in reversed(AXES[:-1]):
        if shown[axis] > 1:
            box = _around(axis, shown[axis], box, pen)
    heading = (f"ranks 0 to {drawn - 1}" if drawn > 1 else "rank 0") + (f" of {world}" if drawn < world else "")
    heading += f", tp 0 to {shown['tp'] - 1} left to right" if shown["tp"] > 1 else ", tp 0"
    heading += "; one frame a tp group"
    width = max(box.width, len(heading) * _CHARACTER) + 2
    height = box.height + _LABEL + 8
    said = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    if drawn < world:
        said += f". The first {drawn} of {world} ranks are drawn"
    description = (
        f"{said}. tp varies fastest: ranks of one tp group follow each other, {world // sizes['tp']} groups of "
        f"{sizes['tp']} ranks."
    )
    body = "".join(_draw(box, 1, _LABEL + 6, pen, 0, {}, shown))
    return (
        f'<svg class="rank-grid" role="group" aria-labelledby="{name}-title {name}-desc" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">'
        f'<title id="{name}-title">{world} rank{"s" if world > 1 else ""} of the mesh</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>'
        f'<text class="axis" x="1" y="11">{heading}</text>{body}</svg>'
    )


def _clip(sizes: dict[str, int]) -> dict[str, int]:
    """Sizes of at most 1024 ranks: slower axes keep only their first indices."""
    shown = dict(sizes)
    for axis in AXES:
        if prod(shown.values()) <= MOST_RANKS:
            break
        inner = prod(shown.values()) // shown[axis]
        shown[axis] = max(1, MOST_RANKS // inner)
    return shown


def _tile(ranks: int, pen: Pen) -> Box:
    widest = 8 if ranks <= 64 else 16
    even = max(number for number in range(1, widest + 1) if ranks % number == 0)
    columns = even if even >= min(4, ranks) else min(ranks, widest)
    lines = math.ceil(ranks / columns)
    return Box("tp", ranks, columns, columns * pen.square + 2 * pen.pad, lines * pen.square + 2 * pen.pad)


def _around(axis: str, count: int, child: Box, pen: Pen) -> Box:
    """The block of one more axis, with as many children side by side as give it a readable shape."""
    label = len(f"{axis} {count - 1}") * _CHARACTER
    gutter = 0.0 if child.width >= label else len(f"{axis} {count - 1} to {count - 1}") * _CHARACTER + 6

    def size(columns: int) -> tuple[float, float]:
        line = child.height + (0.0 if gutter else _LABEL) + pen.gap
        width = gutter + columns * (child.width + pen.gap) - pen.gap + 2 * pen.pad
        return width, math.ceil(count / columns) * line - pen.gap + 2 * pen.pad

    def misfit(columns: int) -> tuple[bool, bool, float]:
        width, height = size(columns)
        return width > _WIDEST, count % columns != 0, abs(math.log(width / height / _ASPECT))

    columns = min(range(1, count + 1), key=misfit)
    return Box(axis, count, columns, *size(columns), gutter=gutter, child=child)


def _draw(
    box: Box, x: float, y: float, pen: Pen, first: int, index: dict[str, int], shown: dict[str, int]
) -> Iterator[str]:
    """The elements of one block whose upper left corner is (x, y) and whose first rank is `first`."""
    if box.child is None:
        yield from _group(box, x, y, pen, first, index)
        return
    yield f'<rect class="frame" x="{x:g}" y="{y:g}" width="{box.width:g}" height="{box.height:g}" rx="3"/>'
    step = prod(shown[axis] for axis in AXES[AXES.index(box.axis) + 1 :])
    head = 0.0 if box.gutter else _LABEL
    for number in range(box.count):
        line, place = divmod(number, box.columns)
        left = x + pen.pad + box.gutter + place * (box.child.width + pen.gap)
        top = y + pen.pad + line * (box.child.height + head + pen.gap)
        if not box.gutter:
            yield f'<text class="axis" x="{left:g}" y="{top + 11:g}">{box.axis} {number}</text>'
        elif place == 0:
            last = min(number + box.columns, box.count) - 1
            said = f"{box.axis} {number}" + (f" to {last}" if last > number else "")
            middle = top + box.child.height / 2 + 4
            yield f'<text class="axis" x="{x + pen.pad:g}" y="{middle:g}">{said}</text>'
        inner = {**index, box.axis: number}
        yield from _draw(box.child, left, top + head, pen, first + number * step, inner, shown)


def _group(box: Box, x: float, y: float, pen: Pen, first: int, index: dict[str, int]) -> Iterator[str]:
    yield f'<g class="tp-group" data-ranks="{first} to {first + box.count - 1}">'
    yield f'<rect class="tile" x="{x:g}" y="{y:g}" width="{box.width:g}" height="{box.height:g}" rx="3"/>'
    for number in range(box.count):
        rank = first + number
        line, place = divmod(number, box.columns)
        left, top = x + pen.pad + place * pen.square, y + pen.pad + line * pen.square
        where = ", ".join(f"{axis} {at}" for axis, at in {**index, "tp": number}.items())
        side = pen.square - 2
        yield f'<g class="rank" role="img" data-rank="{rank}"><title>rank {rank}: {where}</title>'
        yield f'<rect x="{left + 1:g}" y="{top + 1:g}" width="{side:g}" height="{side:g}" rx="2"/>'
        if pen is _NUMBERED:
            yield f'<text x="{left + pen.square / 2:g}" y="{top + pen.square / 2 + 4:g}">{rank}</text>'
        yield "</g>"
    yield "</g>"
