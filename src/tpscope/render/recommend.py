"""A recommendation in the terminal: the answer first, then the ranking, the reasons, and the ready config."""

from __future__ import annotations

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tpscope.check.result import Severity
from tpscope.language.verdict import Status, Verdict
from tpscope.recommend.rank import fraction, shown
from tpscope.recommend.result import Candidate, Recommendation, Standing
from tpscope.render.check import WIDEST, line, verdict

_STYLE = {
    Standing.RECOMMENDED: "bold green", Standing.FIT: "green", Standing.OUT: "red", Standing.REFERENCE: "dim",
}  # fmt: skip
_LONGEST = 420


def show(result: Recommendation, console: Console) -> None:
    """Print a recommendation on at most `WIDEST` columns."""
    console.width = min(console.width, WIDEST)
    for part in _page(result):
        console.print(part, highlight=False)
    if text := result.config or result.fallback:
        # Not wrapped: it is there to be copied.
        console.print(Text(text.rstrip("\n")), highlight=False, soft_wrap=True)
        console.print()
    console.print(line("again", result.command), highlight=False)


def _page(result: Recommendation) -> list[RenderableType]:
    parts: list[RenderableType] = [_headline(result), _subject(result), _ranking(result)]
    for item in result.candidates:
        parts.append(_labelled(f"{item.framework}, {shown(item)}", _shortened(item.reason), _STYLE[item.standing]))
        parts += [line("  known", f"{bug.title} (bugs/{bug.id}, {bug.reported})") for bug in item.bugs if bug.shown]
        parts += [line("  cost", cost) for cost in item.costs if item.standing is not Standing.OUT]
    parts.append(Text())
    if result.nearest:
        parts.append(line("nearest", _shortened(result.nearest)))
        parts += [line("do", mend) for mend in result.mends] or [line("do", "no mend is known")]
        parts.append(Text())
    parts += [line("rule", rule) for rule in result.rules]
    parts.append(Text())
    if result.changes:
        parts += [line("changes", _shortened(change)) for change in result.changes]
        parts.append(Text())
    parts += [line("note", _shortened(note)) for note in result.notes]
    if result.check is not None:
        parts.append(line("check", _checked(result)))
    return [*parts, Text()]


def _headline(result: Recommendation) -> Text:
    chosen = result.chosen
    if chosen is None:
        return Text("NOTHING IS RECOMMENDED: no candidate is equal in every way that was asked for", style="bold red")
    more = ", sequence parallel" if chosen.layout.get("sequence_parallel") else ""
    return Text.assemble(("RECOMMENDED  ", "bold green"), (chosen.framework, "bold"), f"  {shown(chosen)}{more}")


def _subject(result: Recommendation) -> Text:
    asked = result.asked
    wishes = [f"{result.world} ranks" + (f" ({result.hardware})" if result.hardware else "")]
    wishes += ["LoRA"] if asked.get("lora") else []
    wishes += ["sequence parallel"] if asked.get("sequence_parallel") else []
    wishes += ["a plan of your own"] if asked.get("own_plan") else []
    return Text.assemble((result.model, "bold"), f"  {', '.join(wishes)}")


def _ranking(result: Recommendation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("candidate", no_wrap=True)
    for head in ("layout", "plan", "equal", "out at", "standing"):
        table.add_column(head, overflow="fold")
    for item in result.candidates:
        standing = Text(item.standing.value, style=_STYLE[item.standing])
        table.add_row(item.framework, shown(item), _plan(item), _equal(item), _out(item), standing)
    return table


def _plan(item: Candidate) -> str:
    if item.sharded_fraction is None:
        return item.status or "-"
    return f"{item.level or 'none'}, {fraction(item.sharded_fraction)}"


def _equal(item: Candidate) -> str:
    if not item.ways:
        return "-"
    return f"{sum(case.verdict is Verdict.EQUAL for case in item.cases)} of {len(item.ways)}"


def _out(item: Candidate) -> str:
    if item.failed is not None:
        return f"{item.failed.scenario} ({item.failed.verdict.value})"
    if item.standing is not Standing.OUT:
        return "-"
    if item.equal:
        return "check"
    # compare ran it, and what you asked for is not there.
    return "your wishes" if item.status == Status.OK else f"compare ({item.status})"


def _checked(result: Recommendation) -> str:
    found = result.check
    assert found is not None
    notes = [item.what for item in found.findings if item.severity is Severity.NOTE]
    more = f"; notes: {'; '.join(notes)}" if notes else ""
    said = verdict(found).removesuffix(", on the paths below")
    return f"{found.runs.value.upper()}, {said}: nothing to change was found ({found.command}){more}"


def _labelled(label: str, text: str, style: str) -> RenderableType:
    return Padding(Text.assemble((label, style), f"  {text}"), 0)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
