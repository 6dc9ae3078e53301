"""Every kernel, every collective and every byte of one step."""

from __future__ import annotations

import linecache
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tpscope.frameworks.inside import params, wire
from tpscope.frameworks.inside.price.kernels import kernels
from tpscope.frameworks.inside.price.ledger import Ledger
from tpscope.frameworks.inside.price.routing import Routing
from tpscope.frameworks.inside.price.sums import Sums
from tpscope.frameworks.inside.price.where import Span, Whereabouts
from tpscope.frameworks.inside.trace import Trail
from tpscope.language.answer import TrailLine
from tpscope.language.measured.price import Collective, Operation

_Key = tuple[Any, ...]
_WORLD = "world"
_WAIT = torch.ops._c10d_functional.wait_tensor.default


class Tracer(TorchDispatchMode):
    """Counts what one step does. It stands above fake tensors and below DTensor: it sees what a rank sees. With `real`
    tensors it changes nothing of what runs."""

    def __init__(
        self, model: nn.Module, roots: list[str], axes: dict[str, str], span: Span, tokens: int, real: bool = False
    ):
        super().__init__()
        self._real = real
        self.whereabouts = Whereabouts(model)
        self.phase = "forward"
        self.head = head_of(model)
        self.ledger = Ledger(span, self.head)
        self.sums = Sums()
        self.ledger.gone.append(self.sums.forget)
        self.routing = Routing(model, tokens)
        self.dispatches: Counter[str] = Counter()
        self.views: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
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
        if func is _WAIT:
            # The real one gives back what it was given; the fake one makes a tensor.
            return func(*args) if self._real else args[0]
        place = self.whereabouts.now()
        result = NotImplemented if self._real else self.routing.answered(func, args, place, self.phase)
        if result is NotImplemented:
            result = func(*args, **kwargs)
        group = group_of(args) if wire.kind_of(func) else None
        inputs = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
        outputs = [item for item in tree_leaves(result) if isinstance(item, torch.Tensor)]
        if group is not None and group.size() > 1:
            self._collective(str(wire.kind_of(func)), group, inputs, outputs)
        elif group is None:
            self._operation(func, args, kwargs, inputs, outputs)
            self.sums.ran(func, inputs, outputs)
        for tensor in outputs:
            self.ledger.see(tensor, self.phase, place, "", func.__name__)
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
            with self, self.whereabouts.on(), self.ledger.resizing(lambda: self.phase, self.whereabouts.now):
                yield
        finally:
            ShardingPropagator._propagate_tensor_meta_non_cached = plan

    def enter(self, phase: str) -> None:
        """A phase begins; what is alive at the end of the one before is kept."""
        self.ledger.after[self.phase] = self.ledger.now
        self.calls[self.phase] = self.whereabouts.calls - sum(self.calls.values())
        self.phase = phase
        if phase == "loss":
            self.whereabouts.loss()
        else:
            self.whereabouts.after()

    def _operation(
        self, func: Any, args: Any, kwargs: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]
    ) -> None:
        found = kernels(func, args, kwargs, inputs, outputs, self.routing.experts)
        if not found:
            self.views[self.phase] += 1
        for kernel in found:
            self._operations[self.phase, self.whereabouts.now().module, *kernel] += 1

    def launched(self, name: str, read: list[torch.Tensor], written: list[torch.Tensor]) -> None:
        """A kernel that is no operator of torch."""
        moved = (sum(tensor.numel() * tensor.element_size() for tensor in some) for some in (read, written))
        shapes = tuple(tuple(tensor.shape) for tensor in read)
        dtype = str((written or read)[0].dtype).removeprefix("torch.")
        key = (self.phase, self.whereabouts.now().module, name, shapes, dtype, 0, *moved, True)
        self._operations[key] += 1

    def _collective(self, kind: str, group: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        tensors = [*inputs, *outputs]
        payload = max(tensors, key=lambda tensor: tensor.numel() * tensor.element_size())
        place = self.whereabouts.now()
        # Where the result is an argument, it comes first: all_gather_into_tensor(output, input).
        new = {wire.storage_of(tensor) for tensor in outputs}
        read = [tensor for tensor in inputs if wire.storage_of(tensor) not in new] or inputs
        self.sums.issued(self.phase, kind, place, read, outputs)
        key = (
            self.phase, kind, self._axes.get(group.group_name, ""), place.module, tuple(payload.shape),
            str(payload.dtype).removeprefix("torch."), payload.numel() * payload.element_size(), group.size(),
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
            Operation(
                phase, module, name, [list(shape) for shape in shapes], dtype, count, flops, read, written, kernel
            )
            for (phase, module, name, shapes, dtype, flops, read, written, kernel), count in self._operations.items()
        ]

    def collectives(self) -> list[Collective]:
        """Collectives by phase, module and payload, in the order in which they were first issued."""
        return [
            Collective(phase, kind, axis, module, list(shape), dtype, size, ranks, count, self._where[key])
            for key, count in self._collectives.items()
            for phase, kind, axis, module, shape, dtype, size, ranks in [key]
        ]


def group_of(args: tuple[Any, ...]) -> Any:
    """The process group that a collective runs on."""
    for argument in args:
        if isinstance(argument, torch.ScriptObject) and "ProcessGroup" in str(argument._type()):
            return dist.ProcessGroup.unbox(argument)
        if isinstance(argument, dist.ProcessGroup):
            return argument
    names = [argument for argument in args if isinstance(argument, str)]
    # Functional collectives name their group last; what stands before it may be the reduction.
    return _resolve_process_group(names[-1]) if names else None


def axes_of(mesh: Any) -> dict[str, str]:
    """Axis names by the name of the group; a flattened axis has a group of its own."""
    if mesh is None or mesh.mesh_dim_names is None:
        return {dist.group.WORLD.group_name: "tp"}
    size = dist.get_world_size()
    spanning = [_axis(name) for name in mesh.mesh_dim_names if mesh.size(mesh.mesh_dim_names.index(name)) == size]
    named = {dist.group.WORLD.group_name: spanning[0] if spanning else _WORLD}
    for name in mesh.mesh_dim_names:
        named[mesh.get_group(name).group_name] = _axis(name)
    root = getattr(mesh, "_get_root_mesh", lambda: mesh)()
    for name, flat in (getattr(root, "_flatten_mapping", None) or {}).items():
        group = flat.get_group().group_name
        if named.get(group, _WORLD) == _WORLD:
            named[group] = _axis(name)
    return named


def _axis(name: Any) -> str:
    """An axis by the name that layouts have for it: transformers calls the one that it shards over by what it does."""
    plain = params.axis(name)
    return "dp_shard" if plain == "fsdp" else plain


def head_of(model: nn.Module) -> str:
    """The name of the module that gives the logits."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return next((name for name, module in model.named_modules() if module is head), "lm_head")
