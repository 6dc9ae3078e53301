"""The verb `recommend`: parse, call one function, render."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

Say = Callable[[str, str], None]


def register(app: typer.Typer, progress: Callable[[], AbstractContextManager[Say]]) -> None:
    """Add `recommend` to the command line; `progress` shows what is going on."""
    app.command()(_recommend_with(progress))


def _recommend_with(progress: Callable[[], AbstractContextManager[Say]]) -> Callable[..., None]:
    def recommend(
        model: Annotated[
            str,
            typer.Argument(
                metavar="INPUT",
                help="A catalog name, a directory, a config.json, a hub id in the local cache, a training YAML.",
            ),
        ],
        world: Annotated[int, typer.Option(min=2, help="Ranks that you have.")],
        tp: Annotated[int | None, typer.Option(min=2, help="Tensor-parallel ranks; else chosen by rule.")] = None,
        hardware: Annotated[str, typer.Option(help="What the ranks are, as in h200; kept for price.")] = "",
        lora: Annotated[bool, typer.Option("--lora", help="Train LoRA adapters on all Linear layers.")] = False,
        sequence_parallel: Annotated[
            bool, typer.Option("--sequence-parallel", help="Shard activations over the sequence between TP regions.")
        ] = False,
        own_plan: Annotated[
            bool, typer.Option("--own-plan", help="Only what takes a tensor-parallel plan of your own.")
        ] = False,
        with_: Annotated[
            list[str] | None,
            typer.Option("--with", help="A candidate, as nemo@0.7.0 or ./checkout; else the newest known. Repeat it."),
        ] = None,
        python: Annotated[
            Path | None, typer.Option(help="Interpreter of your own environment, run unmodified.")
        ] = None,
        config: Annotated[str | None, typer.Option(help="Write the ready config of the winner here.")] = None,
        json_: Annotated[
            str | None, typer.Option("--json", help="Write the answer as JSON (- for standard output).")
        ] = None,
        trust_remote_code: Annotated[
            bool, typer.Option("--trust-remote-code", help="Run the model's own Python code.")
        ] = False,
        fresh: Annotated[bool, typer.Option("--fresh", help="Run again what an earlier run has answered.")] = False,
    ) -> None:
        """Recommend framework, version, layout and settings for a model here, with reasons and the ready config."""
        from tpscope.recommend.ask import Asked
        from tpscope.recommend.run import recommend as run
        from tpscope.render import document
        from tpscope.render import recommend as page

        asked = Asked(
            model, world, tp, hardware, lora, sequence_parallel, own_plan, tuple(with_ or ()), python, fresh,
            trust_remote_code,
        )  # fmt: skip
        with progress() as say:
            result = run(asked, say)
        files = {config: result.config} if config and not result.bad else {}
        document.deliver(result, json_, lambda console: page.show(result, console), files)
        if result.bad:
            raise typer.Exit(1)

    return recommend
