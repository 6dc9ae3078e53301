"""What every module saw and made, and the gradients of both: the material of localisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.utils.hooks import RemovableHandle

from tpscope.frameworks.inside.proof.slices import local_of, on_tp


@dataclass
class Seen:
    """One tensor at the border of a module: what this rank holds, its claimed tp placement, and its gradient.

    `waits`: the result of a collective that nobody has waited for yet (AsyncCollectiveTensor).
    """

    module: str
    side: str
    value: torch.Tensor
    placement: str = ""
    gradient: torch.Tensor | None = None
    waits: bool = False


@dataclass
class Records:
    """Borders in the order of the forward, and the order in which gradients came."""

    seen: dict[tuple[str, str], Seen] = field(default_factory=dict)
    backward: list[tuple[str, str]] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)


class Recorder:
    """A context in which the first floating tensors in and out of every module are kept, one `Records` for each call
    of the model (a micro-batch). A module that runs twice in one, as under activation checkpointing, is kept once.

    A module gets a view of its input of its own: the gradient there is what this module alone sends back. What is kept
    lies outside whatever a parallel style does at the module's borders.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.all: list[Records] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Recorder:
        self._handles.append(self.model.register_forward_pre_hook(self._begin))
        return self

    def _begin(self, *_: Any) -> None:
        """Start the records of a call. Modules are hooked at the first one: see `borders.inputs`."""
        if not self.all:
            for name, module in self.model.named_modules():
                if isinstance(module, (nn.ModuleList, nn.ModuleDict)) or module is self.model:
                    continue
                clean = name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")
                # Not compiled with the module: what torch.compile makes of a hook may not see the gradient.
                before, after = torch.compiler.disable(self._before(clean)), torch.compiler.disable(self._after(clean))
                self._handles.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
                self._handles.append(module.register_forward_hook(after))
        self.all.append(Records())

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            for index, value in enumerate(args):
                if _wanted(value):
                    own = self._keep(name, "in", value)
                    return (*args[:index], own, *args[index + 1 :]), kwargs
            for key, value in kwargs.items():
                if _wanted(value):
                    return args, {**kwargs, key: self._keep(name, "in", value)}
            return None

        return hook

    def _after(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.all[-1].classes.setdefault(name, type(module).__qualname__)
            if (value := _first((output,))) is not None:
                self._keep(name, "out", value, alone=False)

        return hook

    def _keep(self, name: str, side: str, tensor: torch.Tensor, alone: bool = True) -> torch.Tensor:
        records = self.all[-1]
        if (name, side) in records.seen:
            return tensor
        waits = isinstance(tensor, AsyncCollectiveTensor)
        seen = Seen(name, side, local_of(tensor.detach()).clone(), on_tp(tensor), waits=waits)
        records.seen[(name, side)] = seen
        if not tensor.requires_grad:
            return tensor
        watched = tensor.view_as(tensor) if alone else tensor
        if not watched.requires_grad:
            # Inside a compiled region's no_grad a view has no gradient to watch.
            return watched

        def arrived(gradient: torch.Tensor | None) -> None:
            # Autograd calls with None where a compiled region has no gradient for its input.
            if gradient is not None and seen.gradient is None:
                seen.gradient = local_of(gradient.detach()).clone()
                records.backward.append((name, side))

        watched.register_hook(arrived)
        return watched


def _wanted(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 1


def _first(values: tuple[Any, ...]) -> torch.Tensor | None:
    for value in values:
        if _wanted(value):
            return value
        if isinstance(value, (tuple, list)) and (found := _first(tuple(value))) is not None:
            return found
        if (
            hasattr(value, "values")
            and isinstance(value, dict)
            and (found := _first(tuple(value.values()))) is not None
        ):
            return found
    return None
