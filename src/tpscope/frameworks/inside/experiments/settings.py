"""Which settings change the plan: each is set to another value, alone, and the framework is asked again."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from tpscope.frameworks.inside import axolotl, nemo, world
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.experiments.prints import Print, of_hf, of_nemo, one_rule
from tpscope.frameworks.inside.experiments.subject import Axolotl, Nemo, subject, told
from tpscope.frameworks.inside.source import condition, source_of

# Sizes of axes and what the launcher gives: not settings of the plan.
_SIZES = {"dp_size", "dp_replicate_size", "tp_size", "cp_size", "pp_size", "ep_size", "world_size", "backend"}


@dataclass
class Toggled:
    """One setting at one other value: did the plan change, did a placement, or what was raised. `untried` says why no
    other value was tried."""

    name: str
    value: str
    plan: bool = False
    placements: bool = False
    raised: str = ""
    untried: str = ""


@dataclass
class Settings:
    """Every setting that was looked at. `steady`: asked twice with nothing changed, the same came out twice. `stopped`:
    what statements raised, on the way to a plan, after which nothing more of them could be seen to be read."""

    owner: str
    found_by: str
    steady: bool
    toggled: list[Toggled]
    stopped: list[str] = field(default_factory=list)


def answer(family: str, case: Case, options: dict[str, Any]) -> Settings:
    """Toggle every setting of the class that the framework reads its distributed settings from."""
    framework = subject(family, case)
    if isinstance(framework, Nemo):
        return _nemo(case)
    if isinstance(framework, Axolotl):
        return _axolotl(case)
    return Settings("", "", True, [])


def others(annotation: Any, now: Any, one: dict[str, Any]) -> list[Any]:
    """Other values of a setting by its type: the other truth value, other members, the plan `one`, another size."""
    parts = typing.get_args(annotation) if typing.get_origin(annotation) is not typing.Literal else (annotation,)
    found: list[Any] = []
    for part in parts or (annotation,):
        if part is bool:
            found.append(not now)
        elif typing.get_origin(part) is typing.Literal:
            found += [value for value in typing.get_args(part) if value != now]
        elif isinstance(part, type) and issubclass(part, enum.Enum):
            found += [member for member in part if member != now]
        elif part is dict or typing.get_origin(part) is dict:
            found.append(one)
        elif part is int:
            found.append(1 if now == 2 else 2)
        else:
            found += [] if not typing.get_args(part) else others(part, now, one)
    return [value for index, value in enumerate(found) if value != now and value not in found[:index]]


def _nemo(case: Case) -> Settings:
    owner, hints = _nemo_owner()

    def ask(more: dict[str, Any]) -> Print:
        world.stop()
        try:
            return of_nemo(case, Nemo(case, more))
        except Exception as error:  # noqa: BLE001 - a setting that the configuration refuses is an answer
            return Print("", "", raised=told(error))

    wanted = [
        (item.name, hints[item.name], _default(item)) for item in dataclasses.fields(owner) if item.name not in _SIZES
    ]
    by = "every field of the class that sizes no axis, set to another value of its type"
    return _toggle(f"{owner.__module__}.{owner.__qualname__}", by, wanted, ask, one_rule("nemo"))


def _nemo_owner() -> tuple[Any, dict[str, Any]]:
    """The class that NeMo's distributed settings are fields of, and their types."""
    distributed = "nemo_automodel.components.distributed"
    module = importlib.import_module(f"{distributed}.{'config' if nemo.has(f'{distributed}.config') else 'fsdp2'}")
    owner = getattr(module, "FSDP2Config", None) or module.FSDP2Manager
    return owner, typing.get_type_hints(owner)


def plan_settings() -> list[tuple[str, str]]:
    """NeMo's settings that take a plan: those whose type admits a dictionary. Class and name."""
    owner, hints = _nemo_owner()
    names = [item.name for item in dataclasses.fields(owner)]
    plan: dict[str, Any] = {}
    return [(owner.__name__, name) for name in names if any(value is plan for value in others(hints[name], None, plan))]


def _default(item: dataclasses.Field[Any]) -> Any:
    return None if item.default is dataclasses.MISSING else item.default


def _toggle(
    owner: str, by: str, wanted: list[tuple[str, Any, Any]], ask: Callable[[dict[str, Any]], Print], one: dict[str, Any]
) -> Settings:
    plain = ask({})
    toggled = []
    for name, hint, now in wanted:
        values = others(hint, now, one)
        if not values:
            toggled.append(Toggled(name, "", untried=f"no other value is known for {_words(hint)}"))
        for value in values:
            came = ask({name: value})
            words = "a plan of one rule" if isinstance(value, dict) else str(value)
            changed = (came.plan != plain.plan, came.placements != plain.placements)
            toggled.append(Toggled(name, words, *(changed if not came.raised else (False, False)), came.raised))
    return Settings(owner, by, ask({}) == plain and not plain.raised, toggled)


def _words(hint: Any) -> str:
    return getattr(hint, "__name__", "") if isinstance(hint, type) else str(hint).replace("typing.", "")


def _axolotl(case: Case) -> Settings:
    """Every key of the schema that the statements on the way to a plan were seen to read."""
    schema = importlib.import_module("axolotl.utils.schemas.config").AxolotlInputConfig
    keys, stopped = _read(case)
    read = [name for name in keys if name in schema.model_fields]
    own = axolotl.config_of(case, case.request.layout)

    def ask(more: dict[str, Any]) -> Print:
        world.stop()
        try:
            return of_hf(case, Axolotl(case, more))
        except Exception as error:  # noqa: BLE001 - a key that Axolotl refuses is an answer
            return Print("", "", raised=told(error))

    wanted = [(name, schema.model_fields[name].annotation, own.get(name)) for name in read]
    by = "every key of the schema that was seen to be read on the way to a plan, set to another value of its type"
    found = _toggle(f"{schema.__module__}.{schema.__qualname__}", by, wanted, ask, one_rule("axolotl"))
    found.stopped = stopped
    return found


def _read(case: Case) -> tuple[list[str], list[str]]:
    """Keys that were read, in their order, while Axolotl checked, laid out, handed over and prepared; what raised."""
    from axolotl.utils.dict import DictDefault

    read: dict[str, None] = {}

    class Noting(DictDefault):  # type: ignore[misc]
        """A configuration that notes what it is asked for."""

        def __getitem__(self, key: Any) -> Any:
            read.setdefault(str(key))
            return super().__getitem__(key)

        def get(self, key: Any, default: Any = None) -> Any:
            read.setdefault(str(key))
            return super().get(key, default)

    cfg = Noting(dict(axolotl.config_of(case, case.request.layout)))
    read.clear()
    stopped = []
    for step in _path(case, cfg):
        try:
            step()
        except Exception as error:  # noqa: BLE001 - what was read before it raised was read
            stopped.append(told(error))
    return list(read), stopped


def _path(case: Case, cfg: Any) -> Iterator[Callable[[], Any]]:
    path = source_of("axolotl.loaders.model")
    # A model as a loader leaves it that sets no sizes: what Axolotl asks of it, it then sets.
    model = SimpleNamespace(_tp_size=None, _device_mesh=None)
    loader = SimpleNamespace(cfg=cfg, model_kwargs={}, device_mesh=None, model=model)
    yield lambda: axolotl.refusals(case, cfg)
    yield lambda: axolotl.mesh_of(case, cfg)
    yield lambda: exec(condition(path, "_build_model", 'self.model_kwargs["tp_plan"]'), {"self": loader})
    yield lambda: exec(condition(path, "_build_model", "self.model._tp_size ="), {"self": loader})
