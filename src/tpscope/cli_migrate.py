"""The verb `migrate`: parse, call one function, render."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

Say = Callable[[str, str], None]


def register(app: typer.Typer, progress: Callable[[], AbstractContextManager[Say]]) -> None:
    """Add `migrate` to the command line; `progress` shows what is going on."""
    app.command()(_migrate_with(progress))


def _migrate_with(progress: Callable[[], AbstractContextManager[Say]]) -> Callable[..., None]:
    def migrate(
        config: Annotated[Path, typer.Argument(metavar="INPUT", help="An Axolotl or NeMo AutoModel training YAML.")],
        to: Annotated[str | None, typer.Option(help="nemo or axolotl; else the one that INPUT is not for.")] = None,
        out: Annotated[
            str | None, typer.Option("-o", "--out", help="Write the YAML here (- for standard output, alone).")
        ] = None,
        target: Annotated[str | None, typer.Option(help="The version to write for, as nemo@0.7.0.")] = None,
        source: Annotated[str | None, typer.Option(help="The version that INPUT is for, as axolotl@0.16.0.")] = None,
        world: Annotated[int | None, typer.Option(min=1, help="Ranks that you will start.")] = None,
        samples: Annotated[
            int | None,
            typer.Option(
                min=1, help="Samples in the data, those for validation among them; they turn shares into steps."
            ),
        ] = None,
        strict: Annotated[
            bool, typer.Option("--strict", help="Exit with 1 unless every field is exact, renamed or derived.")
        ] = False,
        force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
        compare: Annotated[
            bool,
            typer.Option("--compare", help="Also compare plans, what trains, optimizer and rates, by both frameworks."),
        ] = False,
        prove: Annotated[
            bool, typer.Option("--prove", help="That, and prove both files' training on this machine: minutes.")
        ] = False,
        no_check: Annotated[
            bool, typer.Option("--no-check", help="Convert alone; ask neither framework about the result.")
        ] = False,
        json_: Annotated[
            str | None, typer.Option("--json", help="Write the answer as JSON (- for standard output).")
        ] = None,
        markdown: Annotated[
            str | None, typer.Option(help="Write the answer as Markdown (- for standard output).")
        ] = None,
        fresh: Annotated[bool, typer.Option("--fresh", help="Run again what an earlier run has answered.")] = False,
    ) -> None:
        """Move a training YAML between Axolotl and NeMo AutoModel, field by field, with every loss named."""
        from tpscope.migrate.run import Asked
        from tpscope.migrate.run import migrate as run
        from tpscope.render import document
        from tpscope.render import migrate as page

        asked = Asked(config, to, out, target, source, world, samples, force, compare, prove, not no_check, fresh)
        with progress() as say:
            result = run(asked, say)
        files = {markdown: page.markdown(result)} if markdown else {}
        if out == "-":
            typer.echo(result.output, nl=False)
        else:
            document.deliver(result, json_, lambda console: page.show(result, console), files)
        if strict and not result.lossless:
            raise typer.Exit(1)

    return migrate
