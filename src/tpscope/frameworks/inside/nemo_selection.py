"""NeMo's plan selection: what it chose, by which lines, and in which order it asks its sources."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.precedence import Input, State, order, sweep
from tpscope.frameworks.inside.trace import Trail

PARTS = ("distributed/parallelizer.py", "distributed/optimized_tp_plans.py", "/parallelizer.py", "/model.py")
_MARK = "tpscope.probe"
FLAG = "use_hf_tp_plan"


def modules() -> tuple[Any, Any]:
    """NeMo's modules that select plans and that hold the optimized ones."""
    base = "nemo_automodel.components.distributed"
    return importlib.import_module(f"{base}.parallelizer"), importlib.import_module(f"{base}.optimized_tp_plans")


def selection_trail(case: Case, model: nn.Module) -> tuple[dict[str, Any], Trail]:
    """The plan that `_get_parallel_plan` returns for this request, and the lines that it ran."""
    from tpscope.frameworks.inside.nemo import custom_plan

    trail = Trail(case.roots, PARTS)
    with trail.on():
        raw = select(case, model, custom_plan(case), flagged(case))
    return raw, trail


def flagged(case: Case) -> bool:
    """True if the user's file asks for the Hugging Face plan by the flag that early versions have."""
    return bool(case.setting("nemo", f"distributed.{FLAG}"))


def select(case: Case, model: nn.Module, custom: Any, flag: bool) -> dict[str, Any]:
    """The plan that this version's own function selects."""
    function = modules()[0]._get_parallel_plan
    known = inspect.signature(function).parameters
    options: dict[str, Any] = {"sequence_parallel": case.request.layout.sequence_parallel, "tp_shard_plan": custom}
    if FLAG in known:
        options[FLAG] = flag
    if "tp_size" in known:
        options["tp_size"] = case.request.layout.tp
    return dict(function(model, **options))


def level_of(case: Case, model: nn.Module, raw: dict[str, Any], trail: Trail) -> tuple[str, str]:
    """Which source the plan came from, told by the objects that functions returned, and that function's name."""
    if case.request.custom_plan is not None:
        return "custom", case.request.custom_plan
    entries = {function.__name__ for function in modules()[1].PARALLELIZE_FUNCTIONS.values()}
    for path, name, value in reversed(trail.returned):
        if name != "_get_parallel_plan" and isinstance(value, dict) and same(value, raw):
            if name == "get_hf_tp_shard_plan":
                return "hf", f"{path}:{name}"
            if name in entries or "optimized_tp_plans" in path:
                return "optimized", f"{path}:{name}"
    return "base", "nemo_automodel/components/distributed/parallelizer.py:_get_parallel_plan"


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """True if two plans hold the same objects under the same patterns."""
    return one.keys() == other.keys() and all(one[key] is other[key] for key in one)


def experiments(case: Case, model: nn.Module) -> None:
    """Fill `selection.order` from every combination of the selection's inputs, for this model's class."""
    parallelizer, plans = modules()
    from torch.distributed.tensor.parallel import ColwiseParallel

    registry = plans.PARALLELIZE_FUNCTIONS
    keys = keys_of(registry, type(model))
    probes = {level: {f"{_MARK}.{level}": ColwiseParallel()} for level in ("custom", "optimized")}
    inputs = [
        Input("custom", ("none", "given"), {"given": "a custom plan is given (tp_shard_plan)"}),
        Input(
            "registry", ("absent", "present", "raises"),
            {"present": "the class is in PARALLELIZE_FUNCTIONS", "raises": "the function of the class raises"},
        ),
        Input("hf", ("absent", "present"), {"present": "the model has a _tp_plan of Hugging Face"}),
    ]  # fmt: skip
    if FLAG in inspect.signature(parallelizer._get_parallel_plan).parameters:
        inputs.insert(1, Input("flag", ("unset", "set"), {"set": f"{FLAG} is set"}))

    def raises(*_: Any) -> Any:
        raise RuntimeError("tpscope: an optimized plan that is not available")

    def choose(state: State) -> str:
        entry = {"absent": None, "present": lambda *_: probes["optimized"], "raises": raises}[state["registry"]]
        custom = probes["custom"] if state["custom"] == "given" else None
        with registered(registry, keys, entry), hf_plan(model, state["hf"] == "present"):
            try:
                found = select(case, model, custom, state.get("flag") == "set")
            except Exception as error:  # noqa: BLE001 - a refusal is an outcome of the experiment
                return f"raised: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        for level in ("custom", "optimized", "hf"):
            if any(name.startswith(f"{_MARK}.{level}") or name.startswith(f"model.{_MARK}.{level}") for name in found):
                return level
        return "base"

    own = {
        "custom": "given" if case.request.custom_plan else "none",
        "registry": "present" if any(key in registry for key in keys) else "absent",
        "hf": "present" if _has_hf_plan(model) else "absent",
        "flag": "set" if flagged(case) else "unset",
    }
    quiet = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        outcomes = sweep(inputs, choose)
    finally:
        logging.disable(quiet)
    selection = case.answer.selection
    selection.experiments = [{**state, "outcome": outcome} for state, outcome in outcomes]
    selection.order = order(inputs, outcomes, own, selection.level)


def keys_of(registry: dict[Any, Any], cls: type) -> list[Any]:
    """The keys under which the registry may hold a class: the class itself, or names of it and of what it wraps."""
    if any(isinstance(key, type) for key in registry):
        return [cls]
    qualname = getattr(modules()[1], "_get_class_qualname", None)
    return [*([qualname(cls)] if qualname else []), cls.__name__]


@contextmanager
def registered(registry: dict[Any, Any], keys: list[Any], entry: Any) -> Iterator[None]:
    """The registry holds this entry under the first of these keys, or nothing under any of them."""
    before = {key: registry[key] for key in keys if key in registry}
    try:
        for key in keys:
            registry.pop(key, None)
        if entry is not None:
            registry[keys[0]] = entry
        yield
    finally:
        for key in keys:
            registry.pop(key, None)
        registry.update(before)


def _owners(model: nn.Module) -> list[Any]:
    inner = [getattr(model, name, None) for name in ("model", "language_model")]
    return [model, type(model), *[owner for owner in inner if isinstance(owner, nn.Module)]]


def _has_hf_plan(model: nn.Module) -> bool:
    try:
        return bool(modules()[0].get_hf_tp_shard_plan(model))
    except (AssertionError, ValueError):
        # So the framework says that there is no plan that it can read.
        return False


@contextmanager
def hf_plan(model: nn.Module, present: bool) -> Iterator[None]:
    """The Hugging Face attribute holds one probe rule, or nothing, on the model and on what it wraps."""
    owners = _owners(model)
    before = [(owner, vars(owner).get("_tp_plan", _MARK)) for owner in owners]
    try:
        for owner in owners:
            plan = {f"{_MARK}.hf": "colwise"} if present and owner is model else {}
            owner._tp_plan = plan
        yield
    finally:
        for owner, value in before:
            if isinstance(value, str):
                delattr(owner, "_tp_plan")
            else:
                owner._tp_plan = value
