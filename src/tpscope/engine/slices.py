"""Taking a rank's slice of a tensor, and putting a module's numbers and weights in place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tpscope.language.sharding import Cut

_OWN = "_tpscope_config"


def take(tensor: torch.Tensor, cut: Cut, rank: int, ranks: int) -> torch.Tensor:
    """A rank's slice, a tensor of its own. Raises Misfit where the cut does not fit."""
    pieces = [tensor.narrow(cut.dim, begin, end - begin) for begin, end in cut.ranges(rank, ranks)]
    return torch.cat(pieces, cut.dim).contiguous()


def put(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Replace a parameter or buffer by another of its kind, everywhere that the same object is used (tied weights)."""
    owner, _, leaf = name.rpartition(".")
    old = getattr(model.get_submodule(owner), leaf)
    parameter = isinstance(old, nn.Parameter)
    new = nn.Parameter(tensor, requires_grad=old.requires_grad) if parameter else tensor
    for module in model.modules():
        table = module._parameters if parameter else module._buffers
        for key, value in table.items():
            if value is old:
                table[key] = new  # type: ignore[assignment]


def divide(model: nn.Module, settings: Mapping[str, int]) -> list[tuple[Any, str, int]]:
    """Divide whole numbers that modules read, by `module.attribute`; a number of a config becomes the module's own.

    Returns what was there before, as (holder, attribute, number).
    """
    before: list[tuple[Any, str, int]] = []
    for name, divisor in settings.items():
        owner, _, attribute = name.rpartition(".")
        parent, _, last = owner.rpartition(".")
        holder: Any = model.get_submodule(parent if last == "config" else owner)
        if last == "config":
            if _OWN not in holder.__dict__:
                holder.__dict__[_OWN] = holder.__dict__["config"] = copy.copy(holder.config)
            holder = holder.config
        before.append((holder, attribute, getattr(holder, attribute)))
        setattr(holder, attribute, getattr(holder, attribute) // divisor)
    return before
