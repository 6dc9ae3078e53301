"""Which collectives move the same thing: what was issued against what was needed."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from tpscope.frameworks.inside.price.where import Place
from tpscope.frameworks.inside.wire import storage_of
from tpscope.language.measured.price import Moved

_aten = torch.ops.aten
_ADDS = (_aten.add.Tensor, _aten.add_.Tensor)
_COPIES = (_aten._to_copy.default, _aten.clone.default, _aten.copy_.default)


class Sums:
    """Follows the results of collectives by storage.

    Two results that are only ever added to each other (through views and copies) could have been one collective of the
    sum: they are one thing. So are two collectives that read one tensor, unchanged in between.
    """

    def __init__(self) -> None:
        self._calls: list[tuple[str, str, Place]] = []
        self._first: list[int] = []
        self._result: dict[int, int] = {}
        self._read: dict[tuple[str, int], int] = {}

    def issued(self, phase: str, kind: str, place: Place, read: list[torch.Tensor], given: list[torch.Tensor]) -> None:
        """A collective that moved activations: a vector in a layer is the gradient of a norm's weight or of a bias."""
        if place.layer is None or all(tensor.dim() < 2 for tensor in (*read, *given)):
            return
        call = len(self._calls)
        self._calls.append((phase, kind, place))
        self._first.append(call)
        result = {storage_of(tensor) for tensor in given}
        for storage in {storage_of(tensor) for tensor in read} - result:
            before = self._read.setdefault((kind, storage), call)
            if self._calls[before][0] == phase:
                self._join(before, call)
        for storage in result:
            self._result[storage] = call

    def ran(self, func: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """An operator that is no collective."""
        calls = [self._result.get(storage_of(tensor)) for tensor in inputs]
        known = [call for call in calls if call is not None]
        if func in _ADDS and len(known) == len(inputs) == 2:
            self._join(known[0], known[1])
            self._result[storage_of(outputs[0])] = known[0]
        elif func in _COPIES and calls and calls[-1] is not None:
            self._result[storage_of(outputs[0])] = calls[-1]
        elif func._schema.is_mutable:
            for tensor in outputs:
                self.forget(storage_of(tensor))

    def forget(self, storage: int) -> None:
        """A storage that is gone, or holds something else now."""
        self._result.pop(storage, None)
        for key in [key for key in self._read if key[1] == storage]:
            del self._read[key]

    def _join(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        self._first[max(one, other)] = min(one, other)

    def _root(self, call: int) -> int:
        while self._first[call] != call:
            call = self._first[call]
        return call

    def moved(self) -> list[Moved]:
        """Issued and distinct, by phase and kind, over all layers."""
        things: dict[tuple[str, str], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
        for call, (phase, kind, place) in enumerate(self._calls):
            things[phase, kind][self._root(call)].append(place.module)
        return [
            Moved(
                phase, kind, sum(map(len, found.values())), len(found),
                list(dict.fromkeys(module for modules in found.values() if len(modules) > 1 for module in modules)),
            )
            for (phase, kind), found in things.items()
        ]  # fmt: skip
