"""Live bytes of one rank, by what they are for and the module that made them."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside.price.fake import local
from tpscope.frameworks.inside.price.where import LOSS, Place, Span
from tpscope.language.measured.price import Memory, Point

# The CUDA allocator hands out multiples of this.
BLOCK = 512
WEIGHTS, GATHERED, GRADIENTS, OPTIMIZER = "weights", "weights gathered by FSDP", "gradients", "optimizer"
ACTIVATIONS, LOGITS, BUFFERS, TEMPORARY = "activations", "logits and loss", "buffers", "temporary"
_What = tuple[str, str]


class Ledger:
    """A storage is counted once, from the operator that made it until nothing holds it.

    What is alive is noted at every allocation, under a name that the same allocation has at any number of layers: the
    bytes at each such point are a linear function of that number.
    """

    def __init__(self, span: Span, head: str) -> None:
        self._span, self._head = span, head
        self._live: dict[int, tuple[Any, int, _What]] = {}
        self._held: Counter[_What] = Counter()
        self._seen: Counter[tuple[str, str, str]] = Counter()
        self._points: dict[tuple[str, ...], tuple[int, Counter[_What]]] = {}
        self.now = 0
        self.after: dict[str, int] = {}
        self.gone: list[Callable[[int], None]] = []

    def see(self, tensor: torch.Tensor, phase: str, place: Place, category: str = "", operator: str = "") -> None:
        """A tensor that an operator gave back; `category` names it for good."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            if category:
                self._rename(key, category)
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        if not size:
            return
        what = (category or self._category(phase, place), place.module)

        def gone(_: Any) -> None:
            self._drop(key)
            for told in self.gone:
                told(key)

        self._live[key] = (weakref.ref(storage, gone), size, what)
        self._held[what] += size
        self.now += size
        self._note(phase, place, f"{operator} {list(tensor.shape)}")

    def _category(self, phase: str, place: Place) -> str:
        if phase == "before":
            return BUFFERS
        if place.module == LOSS or (self._head and place.module == self._head):
            return LOGITS
        return ACTIVATIONS if phase == "forward" else TEMPORARY

    def _drop(self, key: int) -> None:
        if key in self._live:
            _, size, what = self._live.pop(key)
            self._held[what] -= size
            self.now -= size

    def _note(self, phase: str, place: Place, made: str) -> None:
        label = self._span.label(place.layer)
        if label is None or phase == "before":
            return
        inside = (phase, label, place.module)
        self._seen[inside] += 1
        # Outside of modules as many operators run as there are parameters: those that make the same are one point.
        point = (*inside, str(self._seen[inside]) if place.module and phase != "step" else made)
        if point not in self._points or self.now > self._points[point][0]:
            self._points[point] = (self.now, Counter({what: size for what, size in self._held.items() if size}))

    def _rename(self, key: int, category: str) -> None:
        reference, size, (before, module) = self._live[key]
        if before != category:
            self._live[key] = (reference, size, (category, module))
            self._held[before, module] -= size
            self._held[category, module] += size

    def holds(self, model: nn.Module, place: Callable[[str], str]) -> None:
        """Weights and buffers are there before the step."""
        for name, parameter in model.named_parameters():
            self.see(local(parameter), "before", Place(place(name)), WEIGHTS)
        for name, buffer in model.named_buffers():
            self.see(local(buffer), "before", Place(place(name)), BUFFERS)

    @contextmanager
    def resizing(self, phase: Callable[[], str], place: Callable[[], Place]) -> Iterator[None]:
        """FSDP2 gives memory back and takes it again by resizing a storage, which no operator shows."""
        from torch.distributed.fsdp._fully_shard import _fsdp_param as fsdp

        take, give = fsdp.alloc_storage, fsdp.free_storage

        def taken(tensor: torch.Tensor) -> None:
            take(tensor)
            self.see(tensor, phase(), place(), GATHERED, "unshard")

        def given(tensor: torch.Tensor) -> None:
            give(tensor)
            self._drop(tensor.untyped_storage()._cdata)

        fsdp.alloc_storage, fsdp.free_storage = taken, given
        try:
            yield
        finally:
            fsdp.alloc_storage, fsdp.free_storage = take, give

    def memory(self) -> Memory:
        """Every point at which something was allocated, with what was alive."""
        numbers: dict[_What, int] = {}
        points = [
            Point(
                phase,
                label,
                module,
                made,
                [(numbers.setdefault(what, len(numbers)), size) for what, size in held.items()],
            )
            for (phase, label, module, made), (_, held) in self._points.items()
        ]
        return Memory(list(numbers), points, self.after)
