"""The verb `plan`: parse, call one function, render."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated

import typer

from tpscope.errors import UserError

Say = Callable[[str, str], None]


def register(app: typer.Typer, progress: Callable[[], AbstractContextManager[Say]]) -> None:
    """Add `plan` to the command line; `progress` shows what is going on."""
    app.command()(_plan_with(progress))


def _plan_with(progress: Callable[[], AbstractContextManager[Say]]) -> Callable[..., None]:
    def plan(
        model: Annotated[
            str,
            typer.Argument(
                metavar="INPUT", help="A catalog name, a directory, a config.json, a hub id in the local cache."
            ),
        ],
        tp: Annotated[int, typer.Option(min=2, help="Tensor-parallel ranks.")],
        format_: Annotated[
            str, typer.Option("--format", help="How to write the plan: tpscope, nemo, transformers or torch.")
        ] = "tpscope",
        output: Annotated[
            str | None, typer.Option("--output", help="Write the plan here (- for standard output).")
        ] = None,
        json_: Annotated[
            str | None, typer.Option("--json", help="Write the answer as JSON (- for standard output).")
        ] = None,
    ) -> None:
        """Derive a tensor-parallel plan by experiments on a small model of the same structure, and prove it."""
        from tpscope.plan import formats
        from tpscope.plan.run import derive
        from tpscope.render import document
        from tpscope.render import plan as page

        if format_ not in formats.FORMATS:
            raise UserError(f"--format {format_!r} is not one of {', '.join(formats.FORMATS)}; choose one of them")
        with progress() as say:
            result = derive(model, tp, say)
        written = formats.write(result.case, format_) if result.case is not None and not result.bad else None
        files = {output: written.text} if output and written else {}
        refused = written.refused if written else {}
        document.deliver(result, json_, lambda console: page.show(result, console, refused), files)
        if result.bad:
            raise typer.Exit(1)

    return plan
