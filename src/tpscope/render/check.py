"""A check in the terminal: one screen that says what to change, made to be pasted into an issue."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tpscope.check.result import Check, Finding, Runs, Severity
from tpscope.language.proof import ProofAnswer
from tpscope.language.verdict import Verdict

WIDEST = 100
_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "dim"}
_RUNS = {Runs.YES: "green", Runs.NO: "bold red", Runs.UNKNOWN: "yellow"}
_VERDICT = {Verdict.EQUAL: "green", Verdict.DIFFERENT: "bold red", Verdict.CRASHED: "bold red"}
_PACKAGES = ("torch", "transformers", "accelerate", "peft")


def show(check: Check, console: Console) -> None:
    """Print a check on at most `WIDEST` columns."""
    console.width = min(console.width, WIDEST)
    for part in _page(check):
        console.print(part, highlight=False)


def _page(check: Check) -> list[RenderableType]:
    parts: list[RenderableType] = [_headline(check), _subject(check), Text()]
    loud = [finding for finding in check.findings if finding.severity is not Severity.NOTE]
    quiet = [finding for finding in check.findings if finding.severity is Severity.NOTE]
    for finding in loud:
        parts += [_finding(finding), Text()]
    if not loud:
        parts += [Text("Nothing to change was found.", style="green"), Text()]
    if check.cases:
        parts += [_proofs(check.cases), *_paths(check.cases), Text()]
    if check.tried:
        parts += [line("tried", "; ".join(check.tried)), Text()]
    for finding in quiet:
        parts.append(_note(finding))
    for note in check.notes:
        parts.append(line("note", note))
    if quiet or check.notes:
        parts.append(Text())
    return [*parts, _versions(check), line("again", check.command)]


def verdict(check: Check) -> str:
    """The second half of the headline: is it still the same model?"""
    if check.verdict is not None:
        words = {Verdict.EQUAL: "EQUAL on CPU, on the paths below", Verdict.DIFFERENT: "DIFFERENT"}
        return words.get(check.verdict, f"NOT PROVEN ({check.verdict.value})")
    if check.layout.get("tp", 0) == 1:
        return "NOTHING TO PROVE (tp=1)"
    return "NOT PROVEN"


def _headline(check: Check) -> Text:
    colour = _VERDICT.get(check.verdict, "yellow") if check.verdict is not None else "dim"
    return Text.assemble(
        (check.runs.value.upper(), _RUNS[check.runs]), "  ", (verdict(check), colour), f"  {_counted(check)}"
    )


def _counted(check: Check) -> str:
    said = []
    for severity in (Severity.ERROR, Severity.WARNING):
        number = sum(finding.severity is severity for finding in check.findings)
        if number:
            said.append(f"{number} {severity.value}{'s' if number > 1 else ''}")
    return ", ".join(said)


def _subject(check: Check) -> Text:
    axes = [(axis, size) for axis, size in check.layout.items() if axis not in ("world", "sequence_parallel")]
    shown = ", ".join(f"{axis}={size}" for axis, size in axes if size > 1) or "tp=1"
    if check.layout.get("sequence_parallel"):
        shown += ", sequence parallel"
    model = f"  {check.model}" if check.model else ""
    ranks = f"{check.world or '?'} rank{'' if check.world == 1 else 's'}" + (f": {shown}" if check.layout else "")
    return Text.assemble((check.config, "bold"), f"  {check.framework}{model}  {ranks}")


def _finding(finding: Finding) -> RenderableType:
    head = Text.assemble((f"{finding.severity.value}  ", _STYLE[finding.severity]), (finding.what, "bold"))
    rows: list[RenderableType] = [head, _row("where", finding.where), _row("why", finding.why)]
    rows += [_row("from", f"{line.path}:{line.line}: {line.text}") for line in finding.evidence[:4]]
    if finding.remedy:
        rows.append(_row("do", finding.remedy, "bold"))
    return Group(*rows)


def _row(label: str, text: str, style: str = "") -> RenderableType:
    grid = Table.grid(padding=0)
    grid.add_column(width=9, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    grid.add_row(Text(f"  {label}", style="dim"), Text(text, style=style))
    return grid


def _note(finding: Finding) -> RenderableType:
    said = f"{finding.what}: {finding.why}" if finding.why else finding.what
    place = f"  ({finding.where})" if ":" in finding.where else ""
    return line("note", f"{_shortened(said)}{place}")


def _shortened(text: str) -> str:
    return text if len(text) <= 220 else f"{text[:217]}..."


def line(label: str, text: str) -> RenderableType:
    """A label in its column, and text that wraps beside it."""
    grid = Table.grid(padding=0)
    grid.add_column(width=10, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    grid.add_row(Text(label, style="dim"), Text(text))
    return Padding(grid, 0)


def _proofs(cases: list[ProofAnswer]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", expand=False)
    table.add_column("proof", min_width=17)
    for head in ("tp", "verdict", "depth", "loss", "forward"):
        table.add_column(head, no_wrap=True)
    table.add_column("worst parameter", overflow="fold")
    for case in cases:
        word = Text(case.verdict.value.upper(), style=_VERDICT.get(case.verdict, "yellow"))
        errors = (_number(case.loss_error), _number(case.forward_error), _worst(case))
        table.add_row(case.scenario.replace("+", " + "), str(case.tp), word, case.depth.value, *errors)
    return table


def _paths(cases: list[ProofAnswer]) -> list[RenderableType]:
    """What the proofs ran through and what they did not: equal means equal there."""
    ran = list(dict.fromkeys(path for case in cases for path in case.exercised))
    left = [path for path in dict.fromkeys(path for case in cases for path in case.not_exercised) if path not in ran]
    return [line(label, "; ".join(paths)) for label, paths in (("ran", ran), ("not run", left)) if paths]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _worst(case: ProofAnswer) -> str:
    shown = [item for item in case.parameters if item.error is not None]
    if not shown:
        return "-"
    worst = max(shown, key=lambda item: (not item.equal, (item.error or 0.0) / max(item.tolerance, 1e-300)))
    name = worst.name.rpartition("model.")[2].removesuffix(".weight")
    return f"{_number(worst.error)} {name}"


def _versions(check: Check) -> RenderableType:
    packages = check.environment.get("packages", {})
    said = [check.framework, *(f"{name} {packages[name]}" for name in _PACKAGES if name in packages)]
    outside = [
        f"{item['package']} outside its declared range {item['declared']}"
        for item in check.environment.get("outside_pin", [])
    ]
    return line("versions", ", ".join(said) + (f"  ({'; '.join(outside)})" if outside else ""))
