"""The verb `prove`: parse, call one function, render."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tpscope.errors import UserError

DEFAULT = ("nemo@0.7.0", "axolotl@0.19.0")


def register(app: typer.Typer) -> None:
    """Add `prove` to the command line."""
    app.command()(prove)


def prove(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[INPUT]", help="A catalog name, a directory, a config.json, a hub id in the local cache, a YAML."
        ),
    ] = None,
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", help="A framework: nemo@0.7.0, axolotl@0.19.0, nemo@./checkout, installed. Repeat it."),
    ] = None,
    models_: Annotated[str | None, typer.Option("--models", help="More models, as in qwen3-8b,phi-2.")] = None,
    scenarios_: Annotated[
        str, typer.Option("--scenarios", help="Ways to train, as in plain,lora+sequence-parallel.")
    ] = "plain",
    tp: Annotated[str, typer.Option(help="Tensor-parallel ranks; several as in 2,4.")] = "2",
    custom_plan: Annotated[
        str | None, typer.Option(help="A plan of your own: path.py:name of a dict or a function.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the model's own Python code.")
    ] = False,
    python: Annotated[Path | None, typer.Option(help="Interpreter of your own environment, run unmodified.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long one case may take.")] = 120.0,
    json_: Annotated[
        str | None, typer.Option("--json", help="Write the answer as JSON (- for standard output).")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the answer as JUnit XML, one test case a case.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run again what an earlier run has answered.")] = False,
    list_scenarios: Annotated[bool, typer.Option("--list-scenarios", help="List the scenarios and leave.")] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Break plans that are right, and see that every fault is named.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="With --self-test: every fault on every architecture.")] = False,
) -> None:
    """Prove that the sharded model is still the same model, parameter by parameter, in the way you train it."""
    from tpscope.frameworks.targets import plan_file, resolve
    from tpscope.prove import run, scenarios
    from tpscope.prove.call import named
    from tpscope.render import document, proof
    from tpscope.render.junit import junit as xml
    from tpscope.render.live import Live

    if list_scenarios:
        proof.scenarios(Console())
        return
    names = [name for name in [model or "", *(models_ or "").split(",")] if name.strip()]
    if self_test:
        given = {"--with": with_, "--python": python, "--custom-plan": custom_plan, "--junit": junit}
        _self_test(names, full, [option for option, value in given.items() if value], json_, fresh, seconds)
        return
    if full:
        raise UserError("prove: --full is a form of the self-test; write tpscope prove --self-test --full")
    if not names:
        raise UserError("prove: no model is named; give INPUT, as in tpscope prove qwen3-8b, or --models a,b,c")
    specs, notes = named(names, trust_remote_code)
    targets = resolve(with_ or ([] if python else list(DEFAULT)), python)
    options = run.Options(plan_file(custom_plan) if custom_plan else None, fresh, seconds)
    cases = run.matrix(specs, targets, scenarios.parse_all(scenarios_), sizes(tp))
    with Live(cases) as live:
        result = run.run(cases, options, live.say, live.watch)
    result.notes += notes
    files = {str(junit): xml(result)} if junit else {}
    document.deliver(result, json_, lambda console: proof.show(result, console), files)
    if result.interrupted:
        raise typer.Exit(130)
    if result.bad:
        raise typer.Exit(1)


def _self_test(names: list[str], full: bool, other: list[str], json_: str | None, fresh: bool, seconds: float) -> None:
    from tpscope.prove.run import Options
    from tpscope.prove.selftest import cases, selftest
    from tpscope.render import document
    from tpscope.render import selftest as page

    if other:
        raise UserError(f"prove: --self-test tests tpscope itself and takes no {' or '.join(other)}; leave it out")
    with page.Live(len(cases(full, names))) as live:
        result = selftest(full, names, Options(fresh=fresh, seconds=seconds), live.say, live.watch)
    document.deliver(result, json_, lambda console: page.show(result, console))
    if result.interrupted:
        raise typer.Exit(130)
    if result.bad:
        raise typer.Exit(1)


def sizes(text: str) -> list[int]:
    """Read `2,4`. Raises UserError."""
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise UserError(f"--tp {text}: write whole numbers, as in --tp 2,4") from error
