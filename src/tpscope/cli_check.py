"""The verb `check`: parse, call one function, render."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

Say = Callable[[str, str], None]


def register(app: typer.Typer, progress: Callable[[], AbstractContextManager[Say]]) -> None:
    """Add `check` to the command line; `progress` shows what is going on."""
    app.command()(_check_with(progress))


def _check_with(progress: Callable[[], AbstractContextManager[Say]]) -> Callable[..., None]:
    def check(
        config: Annotated[Path, typer.Argument(metavar="CONFIG", help="An Axolotl or NeMo AutoModel training YAML.")],
        world: Annotated[
            int | None, typer.Option(min=1, help="Ranks that you will start; else what the file says.")
        ] = None,
        with_: Annotated[
            str | None,
            typer.Option("--with", help="The version that you train with, as nemo@0.7.0, ./checkout or installed."),
        ] = None,
        python: Annotated[
            Path | None, typer.Option(help="Interpreter of your own environment, run unmodified.")
        ] = None,
        json_: Annotated[
            str | None, typer.Option("--json", help="Write the answer as JSON (- for standard output).")
        ] = None,
        no_prove: Annotated[
            bool, typer.Option("--no-prove", help="Leave the proofs out: seconds instead of a minute.")
        ] = False,
        trust_remote_code: Annotated[
            bool, typer.Option("--trust-remote-code", help="Run the model's own Python code.")
        ] = False,
        fresh: Annotated[bool, typer.Option("--fresh", help="Run again what an earlier run has answered.")] = False,
    ) -> None:
        """Check a whole training YAML: would it run, is the sharded model still the same model, what to change."""
        from tpscope.check.ask import Asked
        from tpscope.check.run import check as run
        from tpscope.render import check as page
        from tpscope.render import document

        asked = Asked(config, world, with_, python, not no_prove, fresh, trust_remote_code)
        with progress() as say:
            result = run(asked, say)
        document.deliver(result, json_, lambda console: page.show(result, console))
        if result.bad:
            raise typer.Exit(1)

    return check
