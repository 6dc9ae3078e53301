"""Every kernel, every collective and every byte of one step."""

from __future__ import annotations

import linecache
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tpscope.frameworks.inside import params, wire
from tpscope.frameworks.inside.price.fake import local
from tpscope.frameworks.inside.price.where import Whereabouts
from tpscope.frameworks.inside.trace import Trail
from tpscope.language.answer import TrailLine
from tpscope.language.measured.price import Collective, Memory, Operation, Peak

# The CUDA allocator hands out multiples of this.
BLOCK = 512
_Key = tuple[Any, ...]


class Tracer(TorchDispatchMode):
    """Counts what one step does. It stands above fake tensors and below DTensor: it sees what a rank sees."""

    def __init__(self, model: nn.Module, roots: list[str], axes: dict[int, str]):
        super().__init__()
        self.whereabouts = Whereabouts(model)
        self.phase = "forward"
        self.ledger = Ledger()
        self.dispatches: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self._planning = False
        self._axes = axes
        self._trail = Trail(roots, ("",))
        self._operations: Counter[_Key] = Counter()
        self._collectives: Counter[_Key] = Counter()
        self._where: dict[_Key, TrailLine | None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Note one operator and run it."""
        if self._planning:
            return func(*args, **(kwargs or {}))
        if any(issubclass(kind, DTensor) for kind in types):
            self.dispatches[self.phase] += 1
            return NotImplemented
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            return self._answered(args[0])
        kind = wire.kind_of(func)
        moves = kind is not None and wire.ranks_of(args) > 1
        result = func(*args, **kwargs)
        outputs = [item for item in tree_leaves(result) if isinstance(item, torch.Tensor)]
        if moves:
            self._collective(str(kind), func, args, outputs)
        elif kind is None:
            self._operation(func, args, kwargs, outputs, result)
        module = self.whereabouts.now()
        for tensor in outputs:
            self.ledger.see(tensor, self.phase, module)
        return result

    @contextmanager
    def on(self) -> Iterator[None]:
        """Trace while the block runs. What DTensor computes on whole shapes to plan an operator is not the step's."""
        plan = ShardingPropagator._propagate_tensor_meta_non_cached

        def planned(*arguments: Any, **options: Any) -> Any:
            before, self._planning = self._planning, True
            try:
                return plan(*arguments, **options)
            finally:
                self._planning = before

        ShardingPropagator._propagate_tensor_meta_non_cached = planned
        try:
            with self, self.whereabouts.on():
                yield
        finally:
            ShardingPropagator._propagate_tensor_meta_non_cached = plan

    def _answered(self, tensor: torch.Tensor) -> Any:
        """The code asks for a number that only real data has: the answer for one whole sequence without padding."""
        self.asked[f"{self.phase}: {self.whereabouts.now() or 'outside the model'}"] += 1
        return True if tensor.dtype == torch.bool else 1

    def _operation(self, func: Any, args: Any, kwargs: Any, outputs: list[torch.Tensor], result: Any) -> None:
        inputs = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
        storages = {wire.storage_of(tensor) for tensor in inputs}
        kernel = func._schema.is_mutable or any(wire.storage_of(tensor) not in storages for tensor in outputs)
        if not kernel or not (inputs or outputs):
            return
        packet = func._overloadpacket
        flops = int(flop_registry[packet](*args, **kwargs, out_val=result)) if packet in flop_registry else 0
        key = (
            self.phase, self.whereabouts.now(), func.__name__, tuple(tuple(item.shape) for item in inputs),
            str((outputs or inputs)[0].dtype).removeprefix("torch."), flops,
            sum(map(_bytes, inputs)), sum(map(_bytes, outputs)),
        )  # fmt: skip
        self._operations[key] += 1

    def _collective(self, kind: str, func: Any, args: Any, outputs: list[torch.Tensor]) -> None:
        inputs = [item for item in tree_leaves(args) if isinstance(item, torch.Tensor)]
        payload = max([*inputs, *outputs], key=_bytes)
        ranks = wire.ranks_of(args)
        key = (
            self.phase, kind, self._axes.get(ranks, ""), self.whereabouts.now(), tuple(payload.shape),
            str(payload.dtype).removeprefix("torch."), _bytes(payload), ranks,
        )  # fmt: skip
        self._collectives[key] += 1
        if key not in self._where:
            self._where[key] = self._line()

    def _line(self) -> TrailLine | None:
        """The innermost line of the framework's packages that is running."""
        frame = sys._getframe(1)
        while frame is not None:
            path = self._trail.relative(frame.f_code.co_filename)
            if path is not None:
                text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
                return TrailLine(path, frame.f_lineno, frame.f_code.co_qualname, text)
            frame = frame.f_back  # type: ignore[assignment]
        return None

    def operations(self) -> list[Operation]:
        """Kernels by phase, module and shapes, in the order in which they first ran."""
        return [
            Operation(phase, module, name, [list(shape) for shape in shapes], dtype, count, flops, read, written, True)
            for (phase, module, name, shapes, dtype, flops, read, written), count in self._operations.items()
        ]

    def collectives(self) -> list[Collective]:
        """Collectives by phase, module and payload, in the order in which they were first issued."""
        return [
            Collective(phase, kind, axis, module, list(shape), dtype, size, ranks, count, self._where[key])
            for key, count in self._collectives.items()
            for phase, kind, axis, module, shape, dtype, size, ranks in [key]
        ]


class Ledger:
    """Live bytes by category. A storage is counted once, from the operator that made it until nothing holds it."""

    def __init__(self) -> None:
        self._live: dict[int, tuple[Any, int, str]] = {}
        self.by_category: Counter[str] = Counter()
        self.now = 0
        self._peaks: dict[str, Peak] = {}
        self.after: dict[str, int] = {}

    def see(self, tensor: torch.Tensor, phase: str, module: str, category: str = "") -> None:
        """A tensor that an operator gave back; `category` names it for good."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        if key in self._live:
            if category:
                self._rename(key, category)
            return
        if not size:
            return
        name = category or {"forward": "activations", "loss": "loss", "step": "step"}.get(phase, "temporary")

        def gone(_: Any) -> None:
            _, freed, last = self._live.pop(key)
            self.by_category[last] -= freed
            self.now -= freed

        self._live[key] = (weakref.ref(storage, gone), size, name)
        self.by_category[name] += size
        self.now += size
        peak = self._peaks.get(phase)
        if peak is None or self.now > peak.bytes:
            self._peaks[phase] = Peak(phase, self.now, module, {k: v for k, v in self.by_category.items() if v})

    def _rename(self, key: int, category: str) -> None:
        reference, size, before = self._live[key]
        if before != category:
            self._live[key] = (reference, size, category)
            self.by_category[before] -= size
            self.by_category[category] += size

    def holds(self, model: nn.Module) -> None:
        """Weights and buffers are there before the step."""
        for parameter in model.parameters():
            self.see(local(parameter), "before", "", "parameters")
        for buffer in model.buffers():
            self.see(local(buffer), "before", "", "buffers")

    def memory(self) -> Memory:
        """The peaks of all phases."""
        return Memory([peak for name, peak in self._peaks.items() if name != "before"], self.after)


def axes_of(mesh: Any) -> dict[int, str]:
    """Axis names by group size, where that tells them apart: sizes that two axes share name both."""
    if mesh is None or mesh.mesh_dim_names is None:
        return {dist.get_world_size(): "tp"}
    found: dict[int, list[str]] = {}
    for name, size in zip(mesh.mesh_dim_names, mesh.mesh.shape, strict=True):
        found.setdefault(int(size), []).append(params.axis(name))
    return {size: "/".join(names) for size, names in found.items()}


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
