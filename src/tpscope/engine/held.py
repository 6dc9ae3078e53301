"""What a rank holds of each parameter: a note on the module that owns it, which wrappers and new names do not lose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from tpscope.engine.collectives import Axis
from tpscope.errors import UserError
from tpscope.language.sharding import Cut

_HELD = "_tpscope_held"
_STATE = "_tpscope_state"
_ELSEWHERE = "_tpscope_elsewhere"


@dataclass(frozen=True)
class Held:
    """A rank's part of one parameter. `cut` None: whole. `summed`: gradients of the ranks are parts of the true one."""

    cut: Cut | None = None
    summed: bool = False

    def ranges(self, rank: int, ranks: int) -> list[tuple[int, int]]:
        """The `[begin, end)` pieces of the cut dimension that a rank holds."""
        return [] if self.cut is None else list(self.cut.ranges(rank, ranks))


@dataclass
class State:
    """What belongs to a parallelized model as a whole. `settled`: some of its gradients are summed over the ranks.
    `partial`: the modules with gradients to sum, once somebody has looked (a walk over all costs every step)."""

    axis: Any
    settled: bool = False
    partial: list[nn.Module] | None = None
    mesh: DeviceMesh | None = None
    streams: Any = None


@dataclass(frozen=True)
class Part:
    """One parameter of a parallelized model, under the first of its names."""

    name: str
    module: nn.Module
    leaf: str
    tensor: nn.Parameter
    held: Held


def note(module: nn.Module, leaf: str, held: Held) -> None:
    """Note what a rank holds of a module's own parameter."""
    module.__dict__.setdefault(_HELD, {})[leaf] = held


def held(module: nn.Module, leaf: str) -> Held:
    """What was noted; a parameter without a note is whole on every rank and has its whole gradient."""
    found: Held = module.__dict__.get(_HELD, {}).get(leaf, Held())
    return found


def count_elsewhere(module: nn.Module) -> None:
    """Note that another pipeline stage has a module's parameters too, and counts them in norms."""
    module.__dict__[_ELSEWHERE] = True


def counted(part: Part) -> bool:
    """Whether this stage counts a parameter."""
    return _ELSEWHERE not in part.module.__dict__


def parts(model: nn.Module) -> Iterator[Part]:
    """Every parameter once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for leaf, tensor in module._parameters.items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield Part(f"{prefix}.{leaf}".lstrip("."), module, leaf, tensor, held(module, leaf))


def summed_parts(model: nn.Module, state: State) -> Iterator[Part]:
    """The parameters whose gradients are parts, under their names in their modules."""
    if state.partial is None:
        state.partial = [
            module for module in model.modules() if any(item.summed for item in module.__dict__.get(_HELD, {}).values())
        ]
    seen: set[int] = set()
    for module in state.partial:
        for leaf, tensor in module._parameters.items():  # in one order on every rank
            if tensor is not None and id(tensor) not in seen and held(module, leaf).summed:
                seen.add(id(tensor))
                yield Part(leaf, module, leaf, tensor, held(module, leaf))


def attach(model: nn.Module, state: State) -> None:
    """Make a model one that was parallelized."""
    model.__dict__[_STATE] = state


def state_of(model: nn.Module) -> State | None:
    """The state of a parallelized model, also where something is wrapped around it. None if it was not parallelized."""
    return next((module.__dict__[_STATE] for module in model.modules() if _STATE in module.__dict__), None)


def axis_of(model: nn.Module) -> Axis:
    """The tensor-parallel axis of a parallelized model."""
    state = state_of(model)
    if state is None:
        raise UserError(f"{type(model).__name__} was not parallelized; call tpscope.parallelize(model, mesh) first")
    found: Axis = state.axis
    return found


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The rank's own numbers of a tensor that FSDP may have cut once more."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
