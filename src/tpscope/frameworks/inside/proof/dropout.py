"""Dropout under tp: ranks must draw the same masks where activations are whole, and different ones where they are
sharded. Masks are drawn as the framework draws them, kept, and then left out, so that gradients stay comparable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tpscope.frameworks.inside.proof.slices import local_of

_DRAWS = ("bernoulli", "native_dropout")


Seed = Callable[[int, tuple[int, ...]], int | None]
"""A seed for a dropout by its number and the shape of this rank's mask; None leaves it to the framework."""


@dataclass
class Mask:
    """One drawing: the shape of this rank's mask and its bits."""

    shape: tuple[int, ...]
    bits: bytes
    where: str = ""


class Masks(TorchDispatchMode):
    """Keeps every mask of every dropout that runs inside, and makes the dropout keep everything."""

    def __init__(self, seed: Seed = lambda ordinal, shape: None):
        super().__init__()
        self.found: list[Mask] = []
        self._seed = seed

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run one operation; a drawing is kept and undone."""
        name = func.__name__
        if not name.startswith(_DRAWS):
            return func(*args, **(kwargs or {}))
        seed = self._seed(len(self.found), tuple(local_of(args[0]).shape))
        if seed is not None:
            torch.manual_seed(seed)
        result = func(*args, **(kwargs or {}))
        drawn = local_of(result[1] if isinstance(result, tuple) else result)
        self.found.append(Mask(tuple(drawn.shape), drawn.ne(0).numpy().tobytes()))
        if isinstance(result, tuple):
            # native_dropout gives (output, mask); output is input times mask / (1 - p).
            local_of(result[0]).copy_(local_of(args[0]))
            local_of(result[1]).fill_(True)
            return result
        kept = args[1] if len(args) > 1 and isinstance(args[1], float) else 1.0
        drawn.fill_(kept)
        return result


def judged(ranks: list[list[Mask]], whole: list[tuple[int, ...]]) -> list[tuple[int, bool, bool]]:
    """For each drawing: its number, whether it is sharded over tp (its shape is not the whole model's), and whether the
    ranks' masks are as they should be. Empty if the ranks drew another number of times than the whole model."""
    if any(len(rank) != len(whole) for rank in ranks):
        return []
    found = []
    for index, shape in enumerate(whole):
        masks = [rank[index] for rank in ranks]
        sharded = masks[0].shape != shape
        distinct = len({mask.bits for mask in masks})
        found.append((index, sharded, distinct == len(masks) if sharded else distinct == 1))
    return found
