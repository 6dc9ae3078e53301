"""Layers of a model whatever they are called, like layers, and where a run of modules begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tpscope.plan.inside.subject import fresh
from tpscope.plan.inside.touch import Trial


def tops(model: nn.Module) -> Iterator[str]:
    """Elements of lists of modules that are in no other list: the layers, whatever they are called; without a list the
    model itself."""
    lists = [name for name, module in model.named_modules() if name and _lists(module)]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    for name in outer:
        yield from (f"{name}.{child}" for child, _ in model.get_submodule(name).named_children())
    if not outer:
        yield ""


def _lists(module: nn.Module) -> bool:
    """True for a list of layers; a Sequential of plain modules is rather one function."""
    blocks = isinstance(module, nn.Sequential) and any(True for part in module for _ in part.children())
    return isinstance(module, nn.ModuleList) or blocks


def join(name: str, child: str) -> str:
    """A name under a name; the model itself has none."""
    return f"{name}.{child}".strip(".")


def structure(module: nn.Module) -> tuple[Any, ...]:
    """What two modules have in common if they are computed alike."""
    shapes = tuple((name, tuple(p.shape)) for name, p in module.named_parameters())
    numbers = tuple((key, v) for key, v in vars(module).items() if type(v) is int and key != "layer_idx")
    return type(module), shapes, tuple(type(part) for part in module.modules()), numbers


def owned(root: nn.Module, leaf: str, top: str) -> set[str]:
    """Full names of the parameters that a module under a layer holds itself."""
    return {join(top, f"{leaf}.{name}") for name, _ in root.get_submodule(leaf).named_parameters(recurse=False)}


def entries_of(trial: Trial) -> list[str]:
    """Members whose input does not depend on what other members compute."""
    inputs: list[dict[str, list[torch.Tensor]]] = []
    for changed in (False, True):
        own = trial.copy()
        kept: dict[str, list[torch.Tensor]] = {}
        for name in own.members:
            module = own.root.get_submodule(name)
            if changed:
                with torch.no_grad():
                    for parameter in module.parameters():
                        parameter.add_(torch.ones_like(parameter))
            module.register_forward_pre_hook(
                lambda _, args, name=name, kept=kept: kept.setdefault(name, []).extend(
                    item.clone() for item in args if isinstance(item, torch.Tensor)
                )
            )
        with torch.no_grad():
            own.root(*fresh(own.call.args), **fresh(own.call.kwargs))
        inputs.append(kept)
    before, after = inputs
    return [n for n in trial.members if all(torch.equal(a, b) for a, b in zip(before[n], after[n], strict=True))]
