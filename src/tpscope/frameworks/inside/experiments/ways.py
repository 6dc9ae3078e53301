"""Ways to make a framework take a plan that it does not have: each is gone, and what had to be touched is counted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from tpscope.frameworks.inside import nemo_selection, world
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.experiments.prints import MARK, Print, of_hf, of_nemo, one_rule
from tpscope.frameworks.inside.experiments.settings import plan_settings
from tpscope.frameworks.inside.experiments.subject import Axolotl, Nemo, Subject, subject

_ATTRIBUTE = "base_model_tp_plan"


@dataclass
class Way:
    """One way: what was touched, each place named, and whether the plan that came of it has the new rule.

    `editing` says what kind of change it is: a `setting`, a `file` of the model, or `code` that runs before training.
    """

    editing: str
    places: list[str]
    taken: bool
    rules: int
    raised: str = ""


@dataclass
class Ways:
    """What the model's plan is without any of it, and every way that was gone."""

    level: str
    ways: list[Way]


def answer(family: str, case: Case, options: dict[str, Any]) -> Ways:
    """Go every way with the small model; the rule that is handed over names a module that no model has."""
    framework = subject(family, case)
    level = framework.levels(framework.model(small=True))[0].level
    own = {"nemo": _nemo, "axolotl": _axolotl}.get(family, lambda case: iter(()))
    ways = [*own(case), *_of_the_model(family, case)]
    return Ways(level, ways)


def _ask(case: Case, make: Callable[[], Subject], before: Callable[[Subject], None] = lambda framework: None) -> Print:
    world.stop()
    framework = make()
    before(framework)
    return of_nemo(case, framework) if isinstance(framework, Nemo) else of_hf(case, framework)


def _way(editing: str, places: list[str], came: Print) -> Way:
    taken = any(MARK in pattern for pattern in came.patterns)
    return Way(editing, places, taken, len(came.patterns), came.raised)


def _nemo(case: Case) -> Iterator[Way]:
    registry = nemo_selection.modules()[1].PARALLELIZE_FUNCTIONS
    one = one_rule("nemo")
    for owner, name in plan_settings():
        yield _way("setting", [f"{owner}.{name}"], _ask(case, lambda name=name: Nemo(case, {name: one})))  # type: ignore[misc]
    world.stop()
    keys = nemo_selection.keys_of(registry, type(Nemo(case).model(small=True)))
    entry, function = "an entry of PARALLELIZE_FUNCTIONS", "a function that makes the plan"
    with nemo_selection.registered(registry, keys, lambda *_: one):
        yield _way("code", [entry, function], _ask(case, lambda: Nemo(case)))
    yield _way("code", ["_tp_plan of the model"], _ask(case, lambda: _Planned(case)))
    with nemo_selection.registered(registry, keys, None):
        places = ["_tp_plan of the model", "the class out of PARALLELIZE_FUNCTIONS"]
        yield _way("code", places, _ask(case, lambda: _Planned(case)))


class _Planned(Nemo):
    """NeMo with a model that has a plan of its own, as a model's author would write it."""

    def model(self, small: bool = False) -> nn.Module:
        model = super().model(small)
        model._tp_plan = one_rule("transformers")  # type: ignore[assignment]
        return model


class _Replaced(Axolotl):
    """Axolotl with a model whose plan is replaced after it was built, before it is sharded."""

    def select(self, model: nn.Module) -> dict[str, Any]:
        super().select(model)
        model._tp_plan = one_rule("axolotl")  # type: ignore[assignment]
        return dict(model.tp_plan)  # type: ignore[call-overload]


def _axolotl(case: Case) -> Iterator[Way]:
    for key in ("tp_plan", "tensor_parallel_plan"):
        came = _ask(case, lambda key=key: Axolotl(case, {key: one_rule("axolotl")}))  # type: ignore[misc]
        yield _way("setting", [f"{key} of the YAML"], came)
    yield _way("code", ["_tp_plan of the built model"], _ask(case, lambda: _Replaced(case)))


def _of_the_model(family: str, case: Case) -> Iterator[Way]:
    """What belongs to the model itself: its configuration file, and the classes that transformers has for it."""
    make = {"nemo": Nemo, "axolotl": Axolotl}.get(family)
    if make is None:
        return
    with _in_file(case):
        came = _ask(case, lambda: make(case))
    yield _way("file", [f"{_ATTRIBUTE} of config.json"], came)
    world.stop()
    model = make(case).model(small=True)
    kinds = (("the configuration class", type(model.config), _ATTRIBUTE), ("the model class", type(model), "_tp_plan"))
    for what, owner, name in kinds:
        with _attribute(owner, name, one_rule("transformers")):
            came = _ask(case, lambda: make(case))
        yield _way("code", [f"{name} of {what}"], came)


@contextlib.contextmanager
def _in_file(case: Case) -> Iterator[None]:
    assert case.small_folder is not None
    file = case.small_folder / "config.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(json.dumps({**json.loads(text), _ATTRIBUTE: one_rule("transformers")}), encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _attribute(owner: type, name: str, value: Any) -> Iterator[None]:
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
