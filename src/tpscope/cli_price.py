"""The verb `price`: parse, call one function, render."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated, Any

import typer

from tpscope.errors import UserError


def register(app: typer.Typer, progress: Callable[[], AbstractContextManager[Any]], default: tuple[str, ...]) -> None:
    """Add `price` to the command line; `progress` shows what is going on, `default` are the frameworks asked."""

    @app.command()
    def price(
        inputs: Annotated[
            list[str] | None,
            typer.Argument(metavar="[INPUT]", help="As for compare; with --check, files of rows of bench."),
        ] = None,
        with_: Annotated[
            list[str] | None, typer.Option("--with", help="A framework, as nemo@0.7.0. Repeat it.")
        ] = None,
        hardware: Annotated[
            str,
            typer.Option(
                help="h200, h100, a100, l40s-pcie, or a TOML file of your own; several for --matrix: h200,h100."
            ),
        ] = "h200",
        tp: Annotated[str | None, typer.Option(help="Tensor-parallel ranks; several for --matrix: 2,4,8.")] = None,
        pp: Annotated[int | None, typer.Option(min=1, help="Pipeline ranks (NeMo).")] = None,
        cp: Annotated[int | None, typer.Option(min=1, help="Context-parallel ranks (NeMo).")] = None,
        micro_batches: Annotated[
            int | None, typer.Option("--micro-batches", min=1, help="Micro-batches of a pipelined step; default --pp.")
        ] = None,
        schedule: Annotated[str, typer.Option(help="Of the pipeline: 1f1b, gpipe or interleaved1f1b.")] = "1f1b",
        dp_shard: Annotated[int | None, typer.Option(min=1, help="Ranks that FSDP shards over.")] = None,
        dp_replicate: Annotated[int | None, typer.Option(min=1, help="Replicas of those ranks.")] = None,
        sequence: Annotated[int, typer.Option("--seq", min=1, help="Tokens of a sample.")] = 4096,
        batch: Annotated[int, typer.Option(min=1, help="Samples of a micro-batch of one rank.")] = 1,
        sequence_parallel: Annotated[
            bool | None,
            typer.Option("--sequence-parallel/--no-sequence-parallel", help="Shard activations over the sequence."),
        ] = None,
        loss: Annotated[
            str, typer.Option(help="A loss by its class, as ChunkedCrossEntropy; else the framework's default.")
        ] = "",
        recompute: Annotated[
            str,
            typer.Option("--activation-checkpointing", help="full, or selective (NeMo): made again in the backward."),
        ] = "",
        lora: Annotated[str | None, typer.Option(help="As for compare: r=16,targets=all-linear,alpha=32.")] = None,
        smallest_tp: Annotated[
            bool, typer.Option("--smallest-tp", help="Look for the smallest TP size that fits too.")
        ] = False,
        matrix: Annotated[
            bool, typer.Option("--matrix", help="Models x TP sizes x frameworks x machines, one row each.")
        ] = False,
        models: Annotated[
            str | None, typer.Option(help="With --matrix: models by name, as qwen3-8b,olmo-2-7b; else the study's ten.")
        ] = None,
        check: Annotated[bool, typer.Option("--check", help="Hold predictions against what bench measured.")] = False,
        fresh: Annotated[bool, typer.Option("--fresh", help="Trace again what an earlier run has traced.")] = False,
        json_: Annotated[
            str | None, typer.Option("--json", help="Write the answer as JSON (- for standard output).")
        ] = None,
    ) -> None:
        """Predict traffic, memory and time of a training step on named hardware, from the frameworks' own code."""
        from tpscope.compare.ask import Wishes, question
        from tpscope.compare.run import Pool
        from tpscope.frameworks.targets import resolve
        from tpscope.price import hardware as machines
        from tpscope.price import matrix as many
        from tpscope.price.check import check as held_against
        from tpscope.price.measured import read
        from tpscope.price.pipeline import SCHEDULES
        from tpscope.price.run import Setting
        from tpscope.price.run import price as run
        from tpscope.render import document
        from tpscope.render import price as page

        targets = resolve(with_ or list(default), None)
        sizes = many.numbers(tp) if tp else []
        if matrix:
            from tpscope.report.runs import MODELS

            named = {name: machines.machine(name) for name in many.words(hardware)}
            asked_of = [*(inputs or []), *many.words(models or "")] or list(MODELS)
            with progress() as say, Pool(say, fresh=fresh) as pool:
                cells = many.matrix(asked_of, sizes or [2, 8], targets, named, pool, batch, sequence)
            document.deliver(cells, json_, lambda console: page.show_matrix(cells, console))
            return
        machine = machines.machine(hardware)
        if not inputs:
            raise UserError("price takes an INPUT: a model, a config or a training YAML; only --matrix goes without")
        if check:
            rows = read(inputs)
            with progress() as say, Pool(say, fresh=fresh) as pool:
                held = held_against(rows.cases, machine, hardware, pool)
            document.deliver(held, json_, lambda console: page.show_check(held, console))
            return
        if len(inputs) > 1:
            raise UserError(f"price takes one INPUT, not {len(inputs)}: {' '.join(inputs)}; several are for --check")
        if schedule not in SCHEDULES:
            raise UserError(f"--schedule {schedule}: none that price knows; name one of {', '.join(SCHEDULES)}")
        if recompute not in ("", "full", "selective"):
            raise UserError(f"--activation-checkpointing {recompute}: name full or selective")
        if len(sizes) > 1:
            raise UserError(f"--tp {tp}: several sizes are for --matrix; name one")
        wishes = Wishes(
            tp=sizes[0] if sizes else None,
            pp=pp,
            cp=cp,
            dp_shard=dp_shard,
            dp_replicate=dp_replicate,
            sequence_parallel=sequence_parallel,
            lora=lora,
        )
        asked = question(inputs[0], wishes)
        setting = Setting(machine, hardware, batch, sequence, smallest_tp, schedule, micro_batches, loss, recompute)
        with progress() as say, Pool(say, fresh=fresh) as pool:
            result = run(asked, targets, pool, setting)
        document.deliver(result, json_, lambda console: page.show(result, console))
        if result.bad:
            raise typer.Exit(1)
