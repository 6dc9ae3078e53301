"""A migration in the terminal and as Markdown: what became of every field, what needs a look first."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tpscope.migrate.result import Check, Field, Migration, Standing, Verdict
from tpscope.render.check import WIDEST, line
from tpscope.render.markdown import table

_STYLE = {
    Verdict.EXACT: "green", Verdict.RENAMED: "green", Verdict.DERIVED: "green", Verdict.APPROXIMATED: "yellow",
    Verdict.DROPPED: "yellow", Verdict.NEEDS_YOU: "bold red",
}  # fmt: skip
_MARK = {
    Standing.OK: "green", Standing.TOLD: "yellow", Standing.WARNING: "bold yellow", Standing.FAILED: "bold red",
    Standing.UNCHECKED: "dim",
}  # fmt: skip
# What comes before anything else: it is about whether to move at all.
_FIRST = (Standing.FAILED, Standing.WARNING)
_ORDER = list(reversed(Verdict))
_LONGEST = 300


def show(result: Migration, console: Console) -> None:
    """Print a migration on at most `WIDEST` columns."""
    console.width = min(console.width, WIDEST)
    for part in _page(result):
        console.print(part, highlight=False)


def _page(result: Migration) -> list[RenderableType]:
    parts: list[RenderableType] = [_headline(result), _subject(result), Text()]
    first = sorted((item for item in result.checks if item.standing in _FIRST), key=lambda item: item.standing)
    if first:
        parts += [*(_check(item) for item in first), Text()]
    looks = [field for field in result.fields if not field.verdict.kept]
    for field in sorted(looks, key=lambda field: _ORDER.index(field.verdict)):
        parts.append(_loss(field, result))
    for unknown in result.unknown:
        near = f"; did you mean {' or '.join(unknown.closest)}?" if unknown.closest else ""
        text = f"{unknown.key} is no known key and was left out{near}  ({result.config}:{unknown.line})"
        parts.append(_labelled("unknown key", text, "bold red"))
    if looks or result.unknown:
        parts.append(Text())
    kept = [field for field in result.fields if field.verdict.kept and (field.source or field.target)]
    parts += [*(_kept(field) for field in kept), Text()]
    parts += [_check(check) for check in result.checks if check.standing not in _FIRST]
    parts += [line("note", note) for note in result.notes]
    if result.checks or result.notes:
        parts.append(Text())
    if result.written:
        parts.append(line("written", result.written))
    return [*parts, line("again", result.command)]


def _headline(result: Migration) -> Text:
    counts = [(verdict, result.count(verdict)) for verdict in Verdict]
    said = ", ".join(f"{number} {verdict}" for verdict, number in counts if number)
    failed = sum(check.standing is Standing.FAILED for check in result.checks)
    word, style = ("MOVED", "green") if result.lossless else ("MOVED WITH LOSSES", "yellow")
    if failed:
        word, style = "MOVED, AND A CHECK FAILED", "bold red"
    elif any(check.standing is Standing.WARNING for check in result.checks):
        word, style = f"{word}, AND A WARNING", "bold yellow"
    return Text.assemble((word, style), f"  {said}" + (f", {len(result.unknown)} unknown" if result.unknown else ""))


def _subject(result: Migration) -> Text:
    ranks = f"{result.world or '?'} rank{'' if result.world == 1 else 's'}"
    return Text.assemble((result.config, "bold"), f"  {result.source} -> {result.target}  {ranks}")


def _loss(field: Field, result: Migration) -> RenderableType:
    name = field.source or "(default)"
    arrow = f" -> {field.target}" if field.target else ""
    place = f"  ({result.config}:{field.line})" if field.line else ""
    return _labelled(field.verdict.value, f"{name}{arrow}: {_short(field.reason)}{place}", _STYLE[field.verdict])


def _labelled(label: str, text: str, style: str) -> RenderableType:
    grid = Table.grid(padding=0)
    grid.add_column(width=14, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    grid.add_row(Text(label, style=style), Text(text))
    return grid


def _kept(field: Field) -> RenderableType:
    name = field.source or "(default)"
    value = _value(field)
    arrow = f" -> {field.target}" if field.target else ""
    why = f"  ({_short(field.reason)})" if field.reason else ""
    return _labelled(field.verdict.value, f"{name}{arrow}: {value}{why}" if value else f"{name}{arrow}{why}", "green")


def _value(field: Field) -> str:
    if not field.target:
        return _text(field.source_value)
    before, after = _text(field.source_value), _text(field.target_value)
    return after if before in ("", after) else f"{before} -> {after}"


def _text(value: Any) -> str:
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _check(check: Check) -> RenderableType:
    return _labelled(check.standing.value, _sentence(check), _MARK[check.standing])


def _sentence(check: Check) -> str:
    values = (
        "" if check.source is None and check.target is None else f": {_shown(check.source)} | {_shown(check.target)}"
    )
    why = f": {check.sentence}" if check.sentence else ""
    place = "".join(f" ({item.path}:{item.line})" for item in check.evidence[:1])
    return f"{check.name}{values}{_short(why)}{place}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "-" if value is None else str(value)


def markdown(result: Migration) -> str:
    """The migration as one Markdown text."""
    lines = [f"# {result.config}: {result.source} -> {result.target}", ""]
    said = ", ".join(f"{result.count(verdict)} {verdict}" for verdict in Verdict if result.count(verdict))
    lines += [f"{result.world or '?'} ranks; {said}.", ""]
    first = [check for check in result.checks if check.standing in _FIRST]
    lines += [*(f"- {_bullet(check)}" for check in first), ""] if first else []
    rows = [
        [f"`{field.source}`" if field.source else "(default)", f"`{field.target}`" if field.target else "-",
         field.verdict.value, _cell(_value(field)), _cell(field.reason), _places(field)]
        for field in result.fields
    ]  # fmt: skip
    lines += table(["from", "to", "verdict", "value", "why", "source lines"], rows)
    lines += [f"- unknown key `{item.key}` (line {item.line}): {', '.join(item.closest) or 'like no other'}"
              for item in result.unknown]  # fmt: skip
    lines += [
        "",
        "## Checks",
        "",
        *(f"- {_bullet(check)}" for check in result.checks if check.standing not in _FIRST),
    ]
    return "\n".join([*lines, "", "## Output", "", "```yaml", result.output.rstrip("\n"), "```", ""])


def _bullet(check: Check) -> str:
    return f"**{check.standing.value}** {_cell(_sentence(check))}"


def _places(field: Field) -> str:
    return ", ".join(f"`{item.path}:{item.line}`" if item.line else f"`{item.path}`" for item in field.evidence)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
