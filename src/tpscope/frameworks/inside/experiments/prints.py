"""The fingerprint of a sharded model: which plan was chosen, and where every parameter came to be."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from tpscope.frameworks.inside import normal, params
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.experiments.subject import Axolotl, Nemo, Subject, told
from tpscope.frameworks.inside.hf_engine import Asked

MARK = "tpscope_probe"
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "module.")


@dataclass(frozen=True)
class Print:
    """What came of one question: digests of the plan and of the placements, the plan's patterns; or what raised."""

    plan: str
    placements: str
    patterns: tuple[str, ...] = ()
    raised: str = ""


def one_rule(family: str) -> dict[str, Any]:
    """A plan of one rule, for a module that no model has, with the kind of style that a framework's plans hold."""
    if family != "nemo":
        return {f"model.layers.*.{MARK}": "colwise"}
    from torch.distributed.tensor.parallel import ColwiseParallel

    return {f"model.layers.*.{MARK}": ColwiseParallel()}


def of_nemo(case: Case, framework: Nemo) -> Print:
    """Have NeMo shard the small model; the plan is what its own function returned to its own strategy."""
    parallelizer = importlib.import_module("nemo_automodel.components.distributed.parallelizer")
    with _spied(parallelizer, "_get_parallel_plan") as chosen:
        return _print(case, framework, chosen)


def of_hf(case: Case, framework: Subject) -> Print:
    """Have Axolotl or transformers shard the small model; the plan is what the model holds when it is applied."""
    chosen: list[dict[str, Any]] = []
    select = framework.select

    def noted(model: nn.Module) -> dict[str, Any]:
        raw = select(model)
        handed = framework.asked.plan if isinstance(framework, Axolotl) else "auto"
        chosen.append({**raw, **(handed if isinstance(handed, dict) else {})})
        return raw

    framework.select = noted  # type: ignore[method-assign]
    if isinstance(framework, Axolotl):
        framework.asked = Asked(case.request.layout.tp)
    return _print(case, framework, chosen)


def _print(case: Case, framework: Subject, chosen: list[dict[str, Any]]) -> Print:
    try:
        model = framework.model(small=True)
        before = params.shapes(model)
        if not isinstance(framework, Nemo):
            framework.select(model)
        sharded = framework.apply(model)
    except Exception as error:  # noqa: BLE001 - what the framework raises is what this question came to
        return Print("", "", raised=told(error))
    raw = chosen[-1] if chosen else {}
    plan = normal.plan_of(raw, sharded, "")
    rows = params.rows(sharded, before, plan)
    placed = sorted(f"{_bare(row.name)} {row.placement} {row.local_shape}" for row in rows)
    rules = [f"{rule.pattern} {rule.style}" for rule in plan.rules]
    return Print(_digest(rules), _digest(placed), tuple(raw))


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


@contextlib.contextmanager
def _spied(module: Any, name: str) -> Iterator[list[dict[str, Any]]]:
    """What a function of a module returns, call by call."""
    own, returned = getattr(module, name), []

    def spy(*arguments: Any, **options: Any) -> Any:
        value = own(*arguments, **options)
        returned.append(dict(value))
        return value

    setattr(module, name, spy)
    try:
        yield returned
    finally:
        setattr(module, name, own)
