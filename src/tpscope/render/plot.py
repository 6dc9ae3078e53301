"""Bars as inline SVG, drawn from the table that stands under them: one panel a group, one bar a row, words on the bars.

Two kinds. `stacked`: text columns name panel and bar, every column of counts is a part of the bar. `bars`: the first
column names the bar, every other column is a panel of its own. Cells that are no number are written where the bar would
be. Colours are those of Okabe and Ito, which keep apart without red and green; every part says its count or its name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

KINDS = ("stacked", "bars")
_NUMBER = re.compile(r"^[\d,.]+\s*%?$")
_WIDTH, _ROW, _BAR, _TOP = 344.0, 19.0, 15.0, 20.0
_CHARACTER, _SMALL = 6.6, 5.9
# Verdicts keep their colour wherever they stand; other series take the first that is free.
_OF_VERDICT = {"equal": 0, "different": 1, "crashed": 2, "refused": 3, "unsupported": 4, "inconclusive": 5}


@dataclass(frozen=True)
class Part:
    """One part of a bar: its series, its value, and how the value is written in the table."""

    series: str
    value: float
    said: str


@dataclass
class Bar:
    """One bar; `instead` is what its row says where it has no number."""

    label: str
    parts: list[Part] = field(default_factory=list)
    instead: str = ""

    @property
    def total(self) -> float:
        """The length of the bar."""
        return sum(part.value for part in self.parts)


@dataclass
class Panel:
    """Bars under one title."""

    title: str
    bars: list[Bar] = field(default_factory=list)


def plot(kind: str, head: Sequence[str], rows: Sequence[Sequence[str]], title: str, number: int) -> str:
    """A figure: a key and one SVG a panel. `number` makes its ids unique. Raises ValueError for a kind not known."""
    if kind not in KINDS:
        raise ValueError(f"plot {kind!r} is none of {', '.join(KINDS)}")
    panels = _stacked(head, rows) if kind == "stacked" else _separate(head, rows)
    series = list(dict.fromkeys(part.series for panel in panels for bar in panel.bars for part in bar.parts))
    most = max((bar.total for panel in panels for bar in panel.bars), default=0.0) or 1.0
    drawn = "".join(
        _panel(panel, most, series, kind, f"plot-{number}-{index}", title) for index, panel in enumerate(panels)
    )
    key = (
        ""
        if kind == "bars"
        else f'<figcaption class="key">{"".join(_key(name, series) for name in series)}</figcaption>'
    )
    return f'<figure class="plot" aria-label="{escape(title)}">{key}<div class="panels">{drawn}</div></figure>'


def _plain(cell: str) -> str:
    return re.sub(r"[`*]", "", cell).strip()


def _value(cell: str) -> float | None:
    text = _plain(cell)
    return float(text.rstrip("% ").replace(",", "")) if _NUMBER.match(text) else None


def _stacked(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Panel]:
    counts = [index for index in range(len(head)) if all(_value(row[index]) is not None for row in rows)]
    words = [index for index in range(len(head)) if index not in counts]
    panels: dict[str, Panel] = {}
    for row in rows:
        panel = panels.setdefault(_plain(row[words[0]]), Panel(_plain(row[words[0]])))
        label = ", ".join(_plain(row[index]) for index in words[1:]) or panel.title
        parts = [Part(_plain(head[index]), _value(row[index]) or 0.0, _plain(row[index])) for index in counts]
        panel.bars.append(Bar(label, [part for part in parts if part.value]))
    return list(panels.values())


def _separate(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Panel]:
    panels = []
    for index in range(1, len(head)):
        panel = Panel(_plain(head[index]))
        for row in rows:
            value = _value(row[index])
            parts = [Part(panel.title, value, _plain(row[index]))] if value is not None else []
            panel.bars.append(Bar(_plain(row[0]), parts, "" if parts else _plain(row[index])))
        panels.append(panel)
    return panels


def said(panel: Panel, kind: str) -> str:
    """A panel in words, for those who do not see it."""
    bars = []
    for bar in panel.bars:
        words = [part.said if kind == "bars" else f"{part.said} {part.series}" for part in bar.parts]
        bars.append(f"{bar.label}: {', '.join(words) or bar.instead or 'nothing'}")
    return "; ".join(bars) + "."


def _colour(name: str, series: Sequence[str]) -> int:
    if name in _OF_VERDICT:
        return _OF_VERDICT[name]
    free = [number for number in range(6) if number not in {_OF_VERDICT[one] for one in series if one in _OF_VERDICT}]
    return free[[one for one in series if one not in _OF_VERDICT].index(name) % len(free)]


def _key(name: str, series: Sequence[str]) -> str:
    return (
        f'<span><svg class="swatch" width="12" height="12" aria-hidden="true"><rect class="s{_colour(name, series)}" '
        f'width="12" height="12"/></svg>{escape(name)}</span>'
    )


def _panel(panel: Panel, most: float, series: Sequence[str], kind: str, name: str, title: str) -> str:
    room = max(len(bar.label) for bar in panel.bars) * _CHARACTER + 8
    # Beyond the end of a bar that stands alone its value is written.
    after = 46.0 if kind == "bars" else 2.0
    scale = (_WIDTH - room - after) / most
    height = _TOP + _ROW * len(panel.bars) + 2
    shapes = []
    for index, bar in enumerate(panel.bars):
        y = _TOP + _ROW * index
        shapes.append(f'<text class="name" x="{room - 6:g}" y="{y + 11.5:g}">{escape(bar.label)}</text>')
        if bar.instead:
            shapes.append(f'<text class="value" x="{room + 2:g}" y="{y + 11.5:g}">{escape(bar.instead)}</text>')
        x = room
        for part in bar.parts:
            width = part.value * scale
            shapes += _part(part, x, y, width, _colour(part.series, series) if kind == "stacked" else 0, kind)
            x += width
    return (
        f'<svg class="bars" role="img" aria-labelledby="{name}-title {name}-said" width="{_WIDTH:g}" '
        f'height="{height:g}" viewBox="0 0 {_WIDTH:g} {height:g}">'
        f'<title id="{name}-title">{escape(panel.title)}. {escape(title)}</title>'
        f'<desc id="{name}-said">{escape(said(panel, kind))}</desc>'
        f'<text class="head" x="0" y="12">{escape(panel.title)}</text>{"".join(shapes)}</svg>'
    )


def _part(part: Part, x: float, y: float, width: float, colour: int, kind: str) -> list[str]:
    rect = f'<rect class="s{colour}" x="{x:.1f}" y="{y:g}" width="{max(width, 1):.1f}" height="{_BAR:g}"/>'
    if kind == "bars":
        label = f'<text class="value" x="{x + width + 4:.1f}" y="{y + 11.5:g}">{escape(part.said)}</text>'
        return [f'<g class="mark">{rect}</g>', label]
    words = next((text for text in (f"{part.said} {part.series}", part.said) if len(text) * _SMALL + 8 <= width), "")
    on = f'<text class="on s{colour}" x="{x + width / 2:.1f}" y="{y + 11.5:g}">{escape(words)}</text>' if words else ""
    return [f'<g class="mark"><title>{escape(part.said)} {escape(part.series)}</title>{rect}{on}</g>']
