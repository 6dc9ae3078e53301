"""Tensors among a module's arguments and results. Caches and other objects are left as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Wanted = Callable[[torch.Tensor], bool]
Change = Callable[[torch.Tensor], torch.Tensor]


def changed(tree: Any, change: Change) -> Any:
    """Every tensor changed, in tuples, lists and dicts of any depth."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if type(tree) is dict:
        return {key: changed(item, change) for key, item in tree.items()}
    if type(tree) in (tuple, list):
        return type(tree)(changed(item, change) for item in tree)
    return tree


def first_changed(tree: Any, wanted: Wanted, change: Change) -> tuple[Any, bool]:
    """The first wanted tensor changed, and whether there was one."""
    found = False

    def once(item: torch.Tensor) -> torch.Tensor:
        nonlocal found
        if found or not wanted(item):
            return item
        found = True
        return change(item)

    return _opened(tree, once), found


def positions_changed(tree: Any, positions: tuple[int, ...], change: Change) -> Any:
    """The floating tensors at these positions changed."""
    counter = -1

    def at(item: torch.Tensor) -> torch.Tensor:
        nonlocal counter
        counter += item.is_floating_point()
        return change(item) if item.is_floating_point() and counter in positions else item

    return _opened(tree, at)


def _opened(tree: Any, change: Change) -> Any:
    """`changed`, and into the named results of Hugging Face models, in place."""
    if isinstance(tree, dict) and type(tree) is not dict:
        for key, item in list(tree.items()):
            tree[key] = changed(item, change)
        return tree
    return changed(tree, change)
