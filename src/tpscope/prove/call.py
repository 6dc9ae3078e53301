"""`tpscope.prove(...)`: the verb as a function."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tpscope.frameworks.targets import plan_file, resolve
from tpscope.models.read import read
from tpscope.models.spec import ModelSpec
from tpscope.prove.result import Proofs
from tpscope.prove.run import SECONDS, Options
from tpscope.prove.run import prove as run
from tpscope.prove.scenarios import parse


def prove(
    models: str | Iterable[str],
    with_: str | Iterable[str],
    scenarios: str | Iterable[str] = ("plain",),
    tp: int | Iterable[int] = 2,
    *,
    custom_plan: str | None = None,
    python: Path | None = None,
    trust_remote_code: bool = False,
    fresh: bool = False,
    seconds: float = SECONDS,
) -> Proofs:
    """Prove each model under each framework, scenario and tp size. `.cases` has one answer each.

    `models` are what INPUT takes (`qwen3-8b`, a directory, a config.json), `with_` framework versions (`nemo@0.7.0`,
    `nemo@./checkout`, `installed`). `.to_json()` of the result is the
    document. Raises UserError for input that cannot be meant, NoFramework where nothing could be run.
    """
    specs, notes = named(_many(models), trust_remote_code)
    options = Options(plan_file(custom_plan) if custom_plan else None, fresh, seconds)
    sizes = [tp] if isinstance(tp, int) else list(tp)
    result = run(specs, resolve(_many(with_), python), [parse(name) for name in _many(scenarios)], sizes, options)
    result.notes += notes
    return result


def named(names: Iterable[str], trust_remote_code: bool = False) -> tuple[list[ModelSpec], list[str]]:
    """The models of several INPUTs, each once, and what is left out of an INPUT that is a training YAML."""
    specs, notes = [], []
    for name in dict.fromkeys(names):
        spec, intent = read(name, trust_remote_code)
        specs.append(spec)
        if intent.kind:
            notes.append(f"only the model of {name} is taken; tpscope check {name} proves what the file asks for")
    return specs, notes


def _many(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
