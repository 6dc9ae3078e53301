"""A framework as an experiment asks it: a model, the choice of its plan, its application, by the framework's code."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside import axolotl, hf_engine, loop_hf, loop_nemo, nemo, nemo_selection, transformers, world
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.hf_engine import Asked
from tpscope.frameworks.inside.source import condition, holding, source_of
from tpscope.frameworks.inside.trace import Trail, ours

Select = Callable[[nn.Module], dict[str, Any]]


@dataclass(frozen=True)
class Level:
    """One way to a plan: which level it ended at, what was changed to get there, and the selection so changed."""

    level: str
    how: str
    select: Select
    during: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


class Subject:
    """One framework with one request: what every experiment needs of it. `parts` are the files of choice and
    application, as parts of their paths; `plans` are files that may hold a plan besides other things."""

    parts: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()

    def __init__(self, case: Case):
        self.case = case
        # What `levels` tried in vain: what was changed, and what the framework raised.
        self.raised: dict[str, str] = {}
        world.start(case.request.layout.world)

    def model(self, small: bool = False) -> nn.Module:
        """The model on meta, as the framework makes it before it shards it."""
        raise NotImplementedError

    def whole(self) -> nn.Module:
        """The small model with real numbers, not sharded."""
        raise NotImplementedError

    def select(self, model: nn.Module) -> dict[str, Any]:
        """Choose the plan, by the framework's own code."""
        raise NotImplementedError

    def levels(self, model: nn.Module) -> list[Level]:
        """Every level that this model can be brought to, each by the fewest changes."""
        raise NotImplementedError

    def apply(self, model: nn.Module) -> nn.Module:
        """Shard the model, as the loader or the recipe does after it has built it."""
        raise NotImplementedError

    def observe(self) -> None:
        """One step of the training loop on the small model with real numbers, up to the optimizer."""
        raise NotImplementedError


class Nemo(Subject):
    """NeMo AutoModel: `_get_parallel_plan` chooses, its strategy applies."""

    parts = ("nemo_automodel/components/distributed/",)
    plans = nemo_selection.PARTS

    def __init__(self, case: Case, more: dict[str, Any] | None = None):
        super().__init__(case)
        self.meshes = nemo.Meshes(case, case.request.layout, more=more)

    def model(self, small: bool = False) -> nn.Module:
        return nemo.build(self.case, str(self.case.small_folder if small else self.case.folder), self.meshes, "meta")

    def whole(self) -> nn.Module:
        return nemo.build(self.case, str(self.case.small_folder), self.meshes, "cpu")

    def select(self, model: nn.Module) -> dict[str, Any]:
        return nemo_selection.select(self.case, model, None, False)

    def levels(self, model: nn.Module) -> list[Level]:
        found: dict[str, Level] = {}
        for level in self._ways(model):
            trail = Trail(self.case.roots, self.plans)
            try:
                with level.during(), trail.on():
                    raw = level.select(model)
            except Exception as error:
                if ours(error):
                    raise
                self.raised[level.how] = told(error)
                continue
            name = level.level or nemo_selection.level_of(self.case, model, raw, trail)[0]
            found.setdefault(name, Level(name, level.how, level.select, level.during))
        return list(found.values())

    def _ways(self, model: nn.Module) -> Iterator[Level]:
        """Changes of one or two inputs, fewest first; only what is the model's own is taken away, nothing is added but
        a plan that the user hands over."""
        registry = nemo_selection.modules()[1].PARALLELIZE_FUNCTIONS
        keys = nemo_selection.keys_of(registry, type(model))
        selected = self.select(model)
        absent = "the class is taken out of PARALLELIZE_FUNCTIONS"

        def unregistered() -> Any:
            return nemo_selection.registered(registry, keys, None)

        @contextmanager
        def nothing() -> Iterator[None]:
            with unregistered(), nemo_selection.hf_plan(model, False):
                yield

        def flagged(model: nn.Module) -> dict[str, Any]:
            return nemo_selection.select(self.case, model, None, True)

        yield Level("", "nothing is changed", self.select)
        yield Level(
            "custom", "the selected plan is handed over as the user's own",
            lambda model: nemo_selection.select(self.case, model, selected, False),
        )  # fmt: skip
        yield Level("", f"{nemo_selection.FLAG} is set", flagged)
        yield Level("", absent, self.select, unregistered)
        yield Level("", f"{absent} and the model has no _tp_plan", self.select, nothing)

    def apply(self, model: nn.Module) -> nn.Module:
        return self.meshes.apply(model)

    def observe(self) -> None:
        world.stop()
        loop_nemo.observe(self.case)


class Transformers(Subject):
    """transformers alone: the model collects its plan when it is built, the loader applies it."""

    parts = transformers.PARTS
    plans = ("transformers/modeling_utils.py",)

    def __init__(self, case: Case):
        super().__init__(case)
        transformers.know(case)
        self.asked = Asked(case.request.layout.tp)

    def model(self, small: bool = False) -> nn.Module:
        return hf_engine.build(str(self.case.small_folder if small else self.case.folder), "meta", False)

    def whole(self) -> nn.Module:
        return hf_engine.build(str(self.case.small_folder), "cpu", False)

    def select(self, model: nn.Module) -> dict[str, Any]:
        for owner in (model.base_model, model):
            collect(owner)
        return dict(model.tp_plan or {})  # type: ignore[call-overload]

    def levels(self, model: nn.Module) -> list[Level]:
        return [Level("hf", "nothing is changed", self.select)]

    def apply(self, model: nn.Module) -> nn.Module:
        config, mesh = hf_engine.prepare(self.case, type(model), self.asked)
        return hf_engine.apply(self.case, model, config, mesh, self.asked)[0]

    def observe(self) -> None:
        world.stop()
        loop_hf.observe(self.case, lambda model, mesh: None)


class Axolotl(Transformers):
    """Axolotl: its statements hand transformers "auto", the rest is transformers'."""

    parts = (*axolotl.PARTS, *transformers.PARTS)

    def __init__(self, case: Case, more: dict[str, Any] | None = None):
        super().__init__(case)
        cfg = axolotl.config_of(case, case.request.layout)
        self.cfg = type(cfg)({**cfg, **(more or {})})
        self._mesh = axolotl.mesh_of(case, self.cfg)
        self._hand = condition(source_of("axolotl.loaders.model"), "_build_model", 'self.model_kwargs["tp_plan"]')
        case.shim("ModelLoader is a namespace with the attributes that its tensor-parallel statements read")

    def select(self, model: nn.Module) -> dict[str, Any]:
        loader = SimpleNamespace(cfg=self.cfg, model_kwargs={}, device_mesh=self._mesh, model=None)
        exec(self._hand, {"self": loader})
        given = loader.model_kwargs
        mesh = given.get("device_mesh", self._mesh)
        self.asked = Asked(given.get("tp_size", 1), plan=given.get("tp_plan", "auto"), mesh=mesh)
        return super().select(model)

    def apply(self, model: nn.Module) -> nn.Module:
        if self.asked.mesh is None:
            self.select(model)
        return super().apply(model)

    def observe(self) -> None:
        world.stop()
        before = axolotl.before_training(self.case, self.case.request.layout)
        loop_hf.observe(self.case, before)


_STATEMENTS: dict[str, Any] = {}


def collect(model: nn.Module) -> None:
    """Have a model of transformers collect its plan again, as it does at the end of its construction: by a method of
    its own, or by the statements of `post_init` that speak of the plan."""
    own = getattr(model, "init_parallel_plans", None)
    if own is not None:
        own()
        return
    if "code" not in _STATEMENTS:
        _STATEMENTS["code"] = holding(source_of("transformers.modeling_utils"), "post_init", "_tp_plan")
    exec(_STATEMENTS["code"], {"self": model})


def told(error: BaseException) -> str:
    """An exception in one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def subject(family: str, case: Case) -> Subject:
    """The framework of a case."""
    importlib.import_module(f"tpscope.frameworks.inside.{family}").preload()
    torch.manual_seed(0)
    return {"nemo": Nemo, "transformers": Transformers, "axolotl": Axolotl}[family](case)
