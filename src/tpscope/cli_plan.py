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
            str | None,
            typer.Argument(
                metavar="[INPUT]",
                help="A catalog name, a directory, a config.json, a hub id in the local cache, or your own module: "
                "path/file.py:function that returns (module, sample).",
            ),
        ] = None,
        *,
        tp: Annotated[int, typer.Option(min=2, help="Tensor-parallel ranks.")],
        plan_: Annotated[
            str | None, typer.Option("--plan", help="Your own plan: a YAML of tpscope's, plan.json or plan.py:NAME.")
        ] = None,
        source: Annotated[
            str | None, typer.Option(help="Ask one source alone: curated, shipped or derived (their order).")
        ] = None,
        check: Annotated[
            str | None, typer.Option("--check", help="Review a plan: a YAML of tpscope's, plan.json or plan.py:NAME.")
        ] = None,
        for_: Annotated[str | None, typer.Option("--model", help="INPUT, for --check.")] = None,
        format_: Annotated[
            str, typer.Option("--format", help="How to write the plan: tpscope, nemo, transformers or torch.")
        ] = "tpscope",
        prove_with: Annotated[
            str | None,
            typer.Option(help="Prove the written plan through this framework, as in nemo@0.7.0+hf; - leaves it out."),
        ] = None,
        trust_remote_code: Annotated[
            bool, typer.Option("--trust-remote-code", help="Run the model's own Python code.")
        ] = False,
        output: Annotated[
            str | None, typer.Option("--output", help="Write the plan here (- for standard output).")
        ] = None,
        json_: Annotated[
            str | None, typer.Option("--json", help="Write the answer as JSON (- for standard output).")
        ] = None,
    ) -> None:
        """Find a tensor-parallel plan (yours, curated, shipped, or derived by experiments), prove it, and write it."""
        from tpscope.plan import formats
        from tpscope.plan.run import derive
        from tpscope.prove.through import FRAMEWORKS, through
        from tpscope.render import document
        from tpscope.render import plan as page

        model = model or for_
        if model is None:
            raise UserError("plan: no model is named; give INPUT, as in tpscope plan qwen3-8b --tp 2")
        if check:
            from tpscope.plan.review import review

            with progress() as say:
                reviewed = review(check, model, tp, say)
            document.deliver(reviewed, json_, lambda console: page.reviewed(reviewed, console))
            if reviewed.bad:
                raise typer.Exit(1)
            return
        if format_ not in formats.FORMATS:
            raise UserError(f"--format {format_!r} is not one of {', '.join(formats.FORMATS)}; choose one of them")
        with progress() as say:
            result = derive(model, tp, say, trust_remote_code, custom=plan_, source=source, form=format_)
        written = formats.write(result.case, format_) if result.case is not None and not result.bad else None
        if (
            result.case
            and written
            and (framework := FRAMEWORKS.get(format_) if prove_with is None else prove_with.strip("-"))
        ):
            with progress() as say:
                result.case.through.append(through(written.text, format_, model, tp, framework, say))
        files = {output: written.text} if output and written else {}
        document.deliver(result, json_, lambda console: page.show(result, console), files)
        if result.bad:
            raise typer.Exit(1)

    return plan
