"""Flow diagrams: as Mermaid in Markdown, and as inline SVG in a page. One description gives both.

Only what the study draws: boxes and questions, joined by arrows that may have a word on them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

_AXIS = re.compile(r"^\s*%% mesh (.*)$", re.M)
_NODE = re.compile(r'(?P<id>\w+)(?:\["(?P<box>[^"]*)"\]|\{"(?P<question>[^"]*)"\})')
_EDGE = re.compile(r"^(?P<from>\w+) -->(?:\|(?P<word>[^|]*)\|)? (?P<to>\w+)")
_THICK = re.compile(r"^style (\w+) stroke-width:4px$")
LINE, PAD, _CHARACTER = 16, 9, 6.7
_NARROW, _WIDE, _BRANCH = 26, 42, 13
_GAP, _SIDE = 26, 44


@dataclass
class Node:
    """A box or a question; `thick` marks the one that was taken."""

    id: str
    text: str
    question: bool = False
    thick: bool = False


@dataclass
class Flow:
    """Nodes in order, and arrows between them: from, to, the word on it."""

    direction: str
    nodes: list[Node] = field(default_factory=list)
    edges: list[tuple[str, str, str]] = field(default_factory=list)

    def node(self, identifier: str) -> Node:
        """The node of an id."""
        return next(node for node in self.nodes if node.id == identifier)


def read(source: str) -> Flow:
    """The flow of a Mermaid text as the study writes it. Raises ValueError on a line that it does not write."""
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    kind, _, direction = lines[0].partition(" ")
    if kind != "flowchart":
        raise ValueError(f"not a flowchart: {lines[0]!r}")
    flow = Flow(direction)
    for line in lines[1:]:
        found = list(_NODE.finditer(line))
        for match in found:
            text = match["box"] if match["box"] is not None else match["question"]
            flow.nodes.append(Node(match["id"], text.replace("#quot;", '"'), match["question"] is not None))
        if edge := _EDGE.match(line):
            flow.edges.append((edge["from"], edge["to"], edge["word"] or ""))
        elif thick := _THICK.match(line):
            flow.node(thick[1]).thick = True
        elif not found:
            raise ValueError(f"no node, no arrow and no mark: {line!r}")
    return flow


def mesh(source: str) -> dict[str, int]:
    """Axes and sizes of a mesh that the study drew as nested boxes; empty if the Mermaid text is none."""
    found = _AXIS.search(source)
    return {name: int(size) for name, _, size in (word.partition("=") for word in found[1].split())} if found else {}


def layered(flow: Flow) -> bool:
    """True if a node feeds several others and nothing is asked: boxes side by side then."""
    return flow.direction == "TD" and not any(node.question for node in flow.nodes)


def said(flow: Flow) -> str:
    """The flow in words, for those who do not see it."""
    if flow.direction == "LR":
        return "In order: " + "; then ".join(_spoken(node) for node in flow.nodes) + "."
    words = [
        f"{_spoken(flow.node(one))} {word + ': ' if flow.node(one).question and word else ''}"
        + ("" if flow.node(one).question else f"to ({word}) " if word else "to ")
        + _spoken(flow.node(to))
        + (" (taken)" if flow.node(to).thick else "")
        for one, to, word in flow.edges
    ]
    return "; ".join(words) + "."


def svg(flow: Flow, number: int) -> str:
    """An inline SVG with title and description; `number` makes its ids unique in the page."""
    spine, branches = _parts(flow)
    width = _WIDE if not branches else _NARROW
    shapes: list[str] = []
    if not branches and _flat(spine) <= 300:
        size = _row(spine, shapes)
    else:
        size = _column(flow, spine, branches, width, shapes)
    title = "What runs, in order" if flow.direction == "LR" else "Which plan is taken"
    return (
        f'<svg class="flow" role="img" aria-labelledby="flow-{number}-title flow-{number}-said" '
        f'width="{size[0]:.0f}" height="{size[1]:.0f}" viewBox="0 0 {size[0]:.0f} {size[1]:.0f}">'
        f'<title id="flow-{number}-title">{title}</title><desc id="flow-{number}-said">{escape(said(flow))}</desc>'
        f'<defs><marker id="flow-{number}-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>'
        + "".join(shapes).replace("url(#tip)", f"url(#flow-{number}-tip)")
        + "</svg>"
    )


def _parts(flow: Flow) -> tuple[list[Node], dict[str, tuple[Node, str]]]:
    """The nodes that stand under each other, and what branches off to the right of a question."""
    branches: dict[str, tuple[Node, str]] = {}
    aside = set()
    for one, to, word in flow.edges:
        if word == "yes" and flow.node(one).question and not flow.node(to).question:
            branches[one] = (flow.node(to), word)
            aside.add(to)
    return [node for node in flow.nodes if node.id not in aside], branches


def _spoken(node: Node) -> str:
    return " ".join(_plain(node.text))


def _plain(text: str) -> list[str]:
    return text.split("<br/>")


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, broken at spaces and after slashes, dots and underscores."""
    lines: list[str] = []
    for part in _plain(text):
        for line in textwrap.wrap(part, width, break_long_words=False, break_on_hyphens=False):
            while len(line) > width:
                cut = max((line.rfind(sign, 0, width) for sign in "/._"), default=-1) + 1 or width
                lines.append(line[:cut])
                line = line[cut:]
            lines.append(line)
    return lines or [""]


def _flat(spine: Sequence[Node]) -> float:
    return sum(len(node.text) * _CHARACTER + 2 * PAD for node in spine) + _GAP * (len(spine) - 1) + 4


def _row(spine: Sequence[Node], shapes: list[str]) -> tuple[float, float]:
    x, height = 2.0, LINE + 2 * PAD
    for index, node in enumerate(spine):
        width = len(node.text) * _CHARACTER + 2 * PAD
        shapes += box(node, x, 2, width, height, [node.text])
        x += width
        if index < len(spine) - 1:
            shapes.append(_arrow(x, 2 + height / 2, x + _GAP, 2 + height / 2))
            x += _GAP
    return x + 2, height + 4


def _column(
    flow: Flow, spine: Sequence[Node], branches: dict[str, tuple[Node, str]], width: int, shapes: list[str]
) -> tuple[float, float]:
    lines = {node.id: wrapped(node.text, width) for node in spine}
    wide = max((len(line) for texts in lines.values() for line in texts), default=1) * _CHARACTER + 2 * PAD
    words = {(one, to): word for one, to, word in flow.edges}
    y, right = 2.0, wide + 4
    for node, after in [*pairwise([*spine, None])] if spine else []:
        assert node is not None
        height = len(lines[node.id]) * LINE + 2 * PAD
        if node.id in branches:
            other, word = branches[node.id]
            texts = wrapped(other.text, _BRANCH)
            across = max(len(line) for line in texts) * _CHARACTER + 2 * PAD
            tall = len(texts) * LINE + 2 * PAD
            height = max(height, tall)
            shapes.append(_arrow(wide + 2, y + height / 2, wide + _SIDE, y + height / 2))
            shapes.append(f'<text class="on-arrow" x="{wide + 6:g}" y="{y + height / 2 - 5:g}">{escape(word)}</text>')
            shapes += box(other, wide + _SIDE, y + (height - tall) / 2, across, tall, texts)
            right = max(right, wide + _SIDE + across + 4)
        shapes += box(node, 2, y, wide, height, lines[node.id])
        y += height
        if after is not None:
            shapes.append(_arrow(2 + wide / 2, y, 2 + wide / 2, y + _GAP))
            if word := words.get((node.id, after.id), ""):
                shapes.append(f'<text class="on-arrow" x="{wide / 2 + 9:g}" y="{y + 17:g}">{escape(word)}</text>')
            y += _GAP
    return right, y + 4


def box(node: Node, x: float, y: float, width: float, height: float, lines: Sequence[str]) -> Iterator[str]:
    """A box with its lines of text in the middle."""
    kind = ("question" if node.question else "box") + (" taken" if node.thick else "")
    corner = height / 2 if node.question and len(lines) == 1 else 12 if node.question else 2
    yield f'<g class="{kind}"><rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{corner:g}"/>'
    top = y + (height - len(lines) * LINE) / 2 + 12
    for index, line in enumerate(lines):
        yield f'<text x="{x + width / 2:g}" y="{top + index * LINE:g}">{escape(line)}</text>'
    yield "</g>"


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<path class="arrow" d="M{x:g} {y:g}L{to_x:g} {to_y:g}" marker-end="url(#tip)"/>'
