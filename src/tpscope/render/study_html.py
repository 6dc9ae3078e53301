"""A study as one HTML file that opens offline: its Markdown laid out in sections, with evidence that expands.

It computes nothing: what stands there is the Markdown, and a diagram is the drawing of the same description.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import count

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from tpscope.render import diagram, layered
from tpscope.render.plot import plot
from tpscope.render.rank_grid import rank_grid

_STYLES = ("theme.css", "layout.css", "parts.css", "study.css")
_QUOTED = re.compile(r"^(?:[^`]*?: )?`[^`]+:\d+`(?: in `[^`]+`)?: `")


@dataclass
class Block:
    """What stands under one heading, as HTML."""

    title: str
    id: str
    level: int
    html: str = ""


@dataclass
class Chapter:
    """A section or an appendix: its introduction and its parts."""

    title: str
    id: str
    blocks: list[Block] = field(default_factory=list)


def page(markdown: str) -> str:
    """The study as one self-contained HTML page."""
    title, intro, chapters = _chapters(markdown)
    style = "\n".join(_asset(name) for name in _STYLES)
    early, late = _asset("theme.js"), _asset("page.js") + _asset("study.js")
    template = _environment().get_template("study.jinja")
    return template.render(
        title=title, intro=Markup(intro), chapters=chapters, style=Markup(style), early_script=Markup(early),
        late_script=Markup(late), style_hash=_hash(style), script_hashes=[_hash(early), _hash(late)],
    )  # fmt: skip


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("tpscope.render", "assets"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _asset(name: str) -> str:
    return files("tpscope.render").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _chapters(markdown: str) -> tuple[str, str, list[Chapter]]:
    """Title, introduction and chapters. The contents of the Markdown are the page's own navigation here."""
    text = re.sub(r"^<!-- plot: (.*?) -->$", "```plot\n\\1\n```", markdown, flags=re.M)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.S)
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    writer = _Writer(parser)
    title, intro, skipping = "", "", False
    chapters: list[Chapter] = []
    for heading, tokens in _split(parser.parse(text)):
        html = writer.html(tokens)
        if heading is None:
            intro += html
            continue
        level, words = heading
        skipping = (level == 2 and words == "Contents") or (skipping and level > 2)
        if level == 1:
            title, intro = words, intro + html
        elif skipping:
            continue
        elif level == 2:
            chapters.append(Chapter(words, _anchor(words), [Block("", _anchor(words) + "-top", 2, html)]))
        else:
            chapters[-1].blocks.append(Block(words, f"{chapters[-1].id}-{_anchor(words)}", level, html))
    return title, intro, chapters


def _split(tokens: list[Token]) -> list[tuple[tuple[int, str] | None, list[Token]]]:
    """Tokens by the heading that they stand under, each heading with its level and words."""
    parts: list[tuple[tuple[int, str] | None, list[Token]]] = [(None, [])]
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            parts.append(((int(token.tag[1]), tokens[index + 1].content), []))
        elif token.type != "heading_close" and not (index and tokens[index - 1].type == "heading_open"):
            parts[-1][1].append(token)
    return parts


class _Writer:
    """Tokens as HTML: tables that sort, diagrams that are drawn, source lines that expand, plots above tables."""

    def __init__(self, parser: MarkdownIt):
        self._parser = parser
        self._numbers = count(1)

    def html(self, tokens: list[Token]) -> str:
        """One run of tokens."""
        out, index, said, kind = "", 0, "", ""
        while index < len(tokens):
            token = tokens[index]
            end = _end(tokens, index)
            inside = tokens[index : end + 1]
            if token.type == "table_open":
                out += (self._plot(kind, inside, said) if kind else "") + self._table(inside, said)
                kind = ""
            elif token.type == "fence" and token.info == "plot":
                kind = token.content.strip()
            elif token.type == "fence" and token.info == "mermaid":
                out += f'<figure class="scroll">{_drawn(token.content, said, next(self._numbers))}</figure>'
            elif token.type == "bullet_list_open":
                out += self._list(inside)
            else:
                said = next((item.content for item in inside if item.type == "inline"), said)
                out += self._render(inside)
            index = end + 1
        return out

    def _render(self, tokens: list[Token]) -> str:
        html = self._parser.renderer.render(tokens, self._parser.options, {})
        return re.sub(r"<code>([^<]*)</code>", lambda match: f"<code>{_breakable(match[1])}</code>", html)

    def _table(self, tokens: list[Token], said: str) -> str:
        html = self._render(tokens)
        html = re.sub(r"<th>(.*?)</th>", r'<th scope="col"><button type="button" class="sort">\1</button></th>', html)
        html = re.sub(r"<td>(.*?)</td>", _cell, html, flags=re.S)
        html = html.replace("<tbody>", '<tbody data-find="rows">', 1)
        label = re.sub(r'["<>&`]', "", said)[:120]
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
            f'{html.replace("<table>", """<table class="sortable">""", 1)}</div>'
        )

    def _plot(self, kind: str, tokens: list[Token], said: str) -> str:
        cells = [
            (tokens[index - 1].type, token.content)
            for index, token in enumerate(tokens)
            if token.type == "inline" and tokens[index - 1].type in ("th_open", "td_open")
        ]
        head = [text for type_, text in cells if type_ == "th_open"]
        body = [text for type_, text in cells if type_ == "td_open"]
        rows = [body[start : start + len(head)] for start in range(0, len(body), len(head))]
        return plot(kind, head, rows, re.sub(r"`", "", said).partition(":")[0], next(self._numbers))

    def _list(self, tokens: list[Token]) -> str:
        items = [token.content for token in tokens if token.type == "inline"]
        html = self._render(tokens)
        if not all(_QUOTED.match(item) for item in items):
            return html.replace("<ul>", '<ul data-find="points">', 1)
        lines = f"{len(items)} source line{'s' if len(items) > 1 else ''}"
        return (
            f'<details class="evidence"><summary>Evidence: {lines} <span class="hits"></span></summary>'
            f'{html.replace("<ul>", """<ul data-find="evidence">""", 1)}</details>'
        )


def _drawn(source: str, said: str, number: int) -> str:
    """A Mermaid text of the study as SVG. `said` is the sentence before it."""
    if axes := diagram.mesh(source):
        return rank_grid(axes, f"mesh-{number}")
    flow = diagram.read(source)
    if diagram.layered(flow):
        return layered.svg(flow, number, re.sub(r"[`:]", "", said))
    return diagram.svg(flow, number)


def _end(tokens: list[Token], start: int) -> int:
    """The index of the token that closes the one at `start`."""
    depth = 0
    for index in range(start, len(tokens)):
        depth += tokens[index].nesting
        if depth == 0:
            return index
    return len(tokens) - 1


def _breakable(name: str) -> str:
    """Code that may be broken after its separators."""
    return re.sub(r"(?<=[/._,])(?=\w)", "<wbr>", name)


def _cell(match: re.Match[str]) -> str:
    """A cell with the room that its text needs."""
    length = len(re.sub(r"<[^>]*>", "", match[1]))
    kind = ' class="long"' if length > 70 else ' class="middle"' if length > 28 else ""
    return f"<td{kind}>{match[1]}</td>"


def _anchor(title: str) -> str:
    """The anchor that the Markdown's own contents use."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
