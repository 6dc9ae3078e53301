"""Which module an operator belongs to, in the backward too."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from tpscope.language.plan import wildcard


class Whereabouts:
    """Follows a forward through its modules.

    Autograd numbers the nodes of a forward in their order, and a backward node still has its number: the module that
    was running when that number was given out is the one whose gradient is being computed.
    """

    def __init__(self, model: nn.Module):
        self._names = {module: wildcard(name) for name, module in model.named_modules()}
        self._stack: list[str] = [""]
        self._from: list[int] = [0]
        self._module: list[str] = [""]

    @contextmanager
    def on(self) -> Iterator[None]:
        """Follow while the block runs."""
        handles = [
            hooks.register_module_forward_pre_hook(self._enter),
            hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def now(self) -> str:
        """The innermost module that is running, or whose gradient is being computed; empty outside the model."""
        node = torch._C._current_autograd_node()
        if node is None:
            return self._stack[-1]
        return self._module[bisect.bisect_right(self._from, node._sequence_nr()) - 1]

    def _enter(self, module: nn.Module, *_: Any) -> None:
        self._stack.append(self._names.get(module, self._stack[-1]))
        self._mark()

    def _leave(self, module: nn.Module, *_: Any) -> None:
        self._stack.pop()
        self._mark()

    def _mark(self) -> None:
        self._from.append(torch.autograd._get_sequence_nr())
        self._module.append(self._stack[-1])
