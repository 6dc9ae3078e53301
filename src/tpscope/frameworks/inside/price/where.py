"""Which module an operator belongs to, in the backward too."""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

from tpscope.language.plan import wildcard

LOSS = "loss"
_WRAPPER = "._checkpoint_wrapped_module"


@dataclass(frozen=True)
class Place:
    """A module: its name with `*` for numbers, and the number of the decoder layer that it is in, None outside."""

    module: str
    layer: int | None = None


OUTSIDE = Place("")


class Whereabouts:
    """Follows a forward through its modules.

    Autograd numbers the nodes of a forward in their order, and a backward node still has its number: the module that
    was running when that number was given out is the one whose gradient is being computed. Modules that are called
    while a gradient is computed run their forward again.
    """

    def __init__(self, model: nn.Module):
        self.layers = layers_of(model)
        self._places = {module: self._place(name) for name, module in model.named_modules()}
        self._stack: list[Place] = [OUTSIDE]
        self._again: list[Place] = []
        self._from: list[int] = [0]
        self._place_from: list[Place] = [OUTSIDE]
        self.calls = 0

    def _place(self, name: str) -> Place:
        inside = re.match(re.escape(self.layers) + r"\.(\d+)(\.|$)", name) if self.layers else None
        return Place(plain(name), int(inside[1]) if inside else None)

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

    def now(self) -> Place:
        """The innermost module that is running, or whose gradient is being computed."""
        if self._again:
            return self._again[-1]
        node = torch._C._current_autograd_node()
        if node is None:
            return self._stack[-1]
        return self._place_from[bisect.bisect_right(self._from, node._sequence_nr()) - 1]

    def loss(self) -> None:
        """What runs from here on outside of modules is the loss."""
        self._stack = [Place(LOSS) if place == OUTSIDE else place for place in self._stack]
        self._mark()

    def after(self) -> None:
        """The loss is computed: what runs from here on outside of modules is of neither."""
        self._stack = [OUTSIDE]
        self._mark()

    def _enter(self, module: nn.Module, *_: Any) -> None:
        self.calls += 1
        stack = self._stack
        if self._again or torch._C._current_autograd_node() is not None:
            stack = self._again
        stack.append(self._places.get(module, stack[-1] if stack else self._stack[-1]))
        self._mark()

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if self._again:
            self._again.pop()
            self._mark()
            return
        # A loss that is computed inside the model's forward ends the step's forward before the model does.
        if len(self._stack) > 1:
            self._stack.pop()
        self._mark()

    def _mark(self) -> None:
        self._from.append(torch.autograd._get_sequence_nr())
        self._place_from.append((self._again or self._stack)[-1])


def layers_of(model: nn.Module) -> str:
    """The path under which the decoder layers stand by number: the one that most parameters are under."""
    sizes: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if found := re.match(r"(.+?)\.\d+\.", name):
            sizes[found[1]] += parameter.numel()
    return sizes.most_common(1)[0][0] if sizes else ""


def plain(name: str) -> str:
    """A module's name with `*` for numbers, without the wrapper that makes its activations again."""
    return wildcard(name.replace(_WRAPPER, ""))


class Span:
    """Which layers of a traced model stand for which of the whole one: a start, periods that repeat, an end."""

    def __init__(self, layers: int, start: int = 0, period: int = 1, end: int = 0):
        self.layers, self.start, self.period, self.end = layers, start, period, end

    def label(self, layer: int | None) -> str | None:
        """The name of a layer that means the same at every number of periods; None for a period in the middle."""
        if layer is None:
            return ""
        if layer < self.start:
            return f"start {layer}"
        if layer >= self.layers - self.end:
            return f"end {layer - self.layers + self.end}"
        if layer < self.start + self.period:
            return f"first {layer - self.start}"
        before = self.layers - self.end - self.period
        return f"last {layer - before}" if layer >= before else None
