"""The verb `report`: parse, call one function, render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from tpscope.cli_prove import sizes

ROOT = Path(__file__).resolve().parents[2]


def register(app: typer.Typer) -> None:
    """Add `report` to the command line."""
    app.command()(report)


def report(
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with", help="A framework version, as nemo@0.7.0. Repeat it; two of one family show what changed."
        ),
    ] = None,
    models: Annotated[
        str, typer.Option("--models", help="Models, as in qwen3-8b,phi-4; else ten of the catalog.")
    ] = "",
    tp: Annotated[str, typer.Option(help="Tensor-parallel ranks; the first is used where one size is shown.")] = "2,8",
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write to.")] = Path("out"),
    section: Annotated[
        str | None, typer.Option("--section", help="Print one section, by number or title, and write nothing.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="FILE", help="Resolve every sentence, citation and run of a report."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what an earlier run has answered.")] = False,
) -> None:
    """Write the whole study, up to date, with evidence; or check that one still holds."""
    from tpscope.report import build

    if check is not None:
        _check(check)
        return
    title = build.titled(section) if section else ""
    wanted = build.asked(with_ or (), models.split(","), sizes(tp))
    from tpscope.render.steps import Steps

    with Steps(len(wanted.runs())) as steps:
        recorded = build.collect(wanted, ROOT, steps, fresh)
    if title:
        typer.echo(recorded.section(title), nl=False)
        return
    from tpscope.render import document, study_html

    markdown = recorded.page()
    texts = {build.ROWS: recorded.text(), build.MARKDOWN: markdown, build.HTML: study_html.page(markdown)}
    document.write_all({out / name: text for name, text in texts.items()})
    console = Console()
    console.print(
        f"{len(build.commands(recorded))} comparisons, {len(wanted.frameworks)} columns, {len(wanted.models)} models",
        highlight=False,
    )
    for name in texts:
        console.print(f"written: {out / name}", style="dim", highlight=False, soft_wrap=True)


def _check(path: Path) -> None:
    from tpscope.report.verify import check

    found = check(path)
    console = Console(soft_wrap=True, highlight=False)
    for problem in found.problems:
        console.print(escape(str(problem)))
    console.print(
        f"{found.file}: {found.lines} lines, {found.citations} citations ({found.quoted} of them in the text), "
        f"{found.files} files, {found.runs} runs, {found.commands} commands: "
        + (f"[bold red]{len(found.problems)} do not hold[/]" if found.problems else "all resolve")
    )
    if found.problems:
        raise typer.Exit(1)
