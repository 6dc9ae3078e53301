"""A model of each family as that framework makes and shards it, and what its loss is computed by."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside import hf_engine
from tpscope.frameworks.inside import transformers as hf
from tpscope.frameworks.inside.case import Case, Refused
from tpscope.frameworks.inside.hf_engine import Asked
from tpscope.frameworks.inside.nemo import Meshes, build, has
from tpscope.frameworks.inside.price import context, losses
from tpscope.frameworks.inside.price.fake import filled
from tpscope.frameworks.inside.price.tracer import Tracer
from tpscope.language.answer import Failure
from tpscope.language.verdict import Status

DTYPE = torch.bfloat16
Loss = Callable[[nn.Module, torch.Tensor, Tracer], torch.Tensor]


@dataclass(frozen=True)
class Wanted:
    """What is asked besides a model and its layout: a loss by its class, the framework's default if empty, and what of
    the activations is made again in the backward: nothing, "full" or "selective"."""

    loss: str = ""
    recompute: str = ""


@dataclass
class Subject:
    """Model, mesh, loss, its name, what had to be assumed, and what a step runs in."""

    model: nn.Module
    mesh: Any
    loss: Loss
    loss_name: str
    assumptions: list[str]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


def built(family: str, case: Case, tensors: AbstractContextManager[Any], wanted: Wanted) -> Subject:
    """What the framework makes. `tensors` is entered where tensors are made."""
    with case.during("model"):
        return (_nemo if family == "nemo" else _hugging_face)(family, case, tensors, wanted)


def _nemo(family: str, case: Case, tensors: AbstractContextManager[Any], wanted: Wanted) -> Subject:
    mode = _again(case, wanted.recompute)
    meshes = Meshes(case, case.request.layout, more={"activation_checkpointing": mode} if mode else None)
    model = build(case, str(case.folder), meshes, "meta", DTYPE)
    with tensors, _asked(mode):
        model = meshes.apply(filled(model))
    loss, name, said = losses.nemo(case, wanted.loss)
    if case.request.layout.cp == 1:
        return Subject(model, meshes.mesh, loss, name, said)
    said += context.hooked(case, model)
    ranks = meshes.mesh["cp"]
    return Subject(model, meshes.mesh, loss, name, said, lambda: context.ring(ranks))


def _again(case: Case, recompute: str) -> bool | str:
    """NeMo's own value. Versions without a selective mode would take its name for a yes."""
    if recompute == "selective" and not has("nemo_automodel.components.distributed.activation_checkpointing"):
        raise _refused(f"{case.request.framework} has no selective activation checkpointing")
    return True if recompute == "full" else recompute


@contextmanager
def _asked(mode: bool | str) -> Iterator[None]:
    """Where a mesh context carries the setting (0.7.0), as DistributedSetup hands it over, it is handed over here."""
    name = "nemo_automodel.components.distributed.mesh"
    kind = getattr(importlib.import_module(name), "MeshContext", None) if mode and has(name) else None
    own = getattr(kind, "from_meshes", None)
    if kind is None or own is None or "activation_checkpointing" not in inspect.signature(own).parameters:
        yield
        return
    kind.from_meshes = partial(own, activation_checkpointing=mode)
    try:
        yield
    finally:
        kind.from_meshes = own


def _refused(message: str) -> Refused:
    return Refused(Status.UNSUPPORTED, Failure("NotTraced", message, "model"))


def _hugging_face(family: str, case: Case, tensors: AbstractContextManager[Any], wanted: Wanted) -> Subject:
    if wanted.recompute == "selective":
        raise _refused(f"{family} has no setting for selective activation checkpointing that is traced")
    layout = case.request.layout
    data = layout.dp_shard * layout.dp_replicate
    mesh: Any = None
    prepare: Callable[[nn.Module], nn.Module] | None = None
    said: list[str] = []
    if family == "axolotl" and data > 1:
        from tpscope.frameworks.inside.price import axolotl_data

        asked, mesh, prepare, said = axolotl_data.asked(case, bool(wanted.recompute))
    else:
        asked = Asked(layout.tp, data)
    model = hf_engine.build(str(case.folder), "meta", case.request.remote_code is not None, DTYPE)
    config, made = hf_engine.prepare(case, type(model), asked)
    mesh = mesh if mesh is not None else made
    if hasattr(mesh, "get_mesh") and not hasattr(mesh, "mesh_dim_names"):
        mesh = mesh.get_mesh(("pp", "fsdp", "tp"))
    with tensors:
        model, _ = hf_engine.apply(case, filled(model), config, made, asked)
        model = hf.lora(case, model)
        if wanted.recompute and prepare is None:
            # As the Trainer asks for it; not reentrant, as Axolotl's loader has it where nothing is said.
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        if prepare is not None:
            model = prepare(model)
    loss, name = losses.hugging_face(model, wanted.loss)
    return Subject(model, mesh if hasattr(mesh, "mesh_dim_names") else None, loss, name, said)
