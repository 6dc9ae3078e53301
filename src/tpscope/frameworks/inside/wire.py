"""Collectives as they are issued: who, which kind, and whether a parameter's gradient was in them.

Runs on a fake process group, where a collective moves nothing. A sum over equal ranks is then n times the tensor: the
recorder puts that value in, scaled by a mark (1.0625, exact in every dtype), so that a gradient which went through a
reduction can be told from one that did not, however it was packed into buckets on the way: sum gives n*1.0625, sum
and division by n gives 1.0625, no reduction gives exactly 1. Integers (counts) get the exact n-fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

MARK = 1.0625


@dataclass
class Call:
    """One collective: kind, reduction, group size, the phase in which it was issued, storages that it read."""

    kind: str
    phase: str
    group_size: int
    op: str
    storages: tuple[int, ...]
    shape: tuple[int, ...]


_KINDS = (
    ("all_reduce", ("all_reduce", "allreduce")),
    ("reduce_scatter", ("reduce_scatter",)),
    ("all_gather", ("all_gather", "allgather")),
    ("all_to_all", ("all_to_all", "alltoall")),
    ("broadcast", ("broadcast",)),
)


class Recorder(TorchDispatchMode):
    """Records collectives; in the phase `loop` it also gives all-reduces the value that equal ranks would give."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.phase = "forward"
        self.calls: list[Call] = []
        # Storages are told apart by address: they are kept alive here so that none is reused for another tensor.
        self._alive: list[torch.UntypedStorage] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Note a collective, run it, and mark what it reduced."""
        kwargs = kwargs or {}
        if any(issubclass(kind, DTensor) for kind in types):
            # DTensor takes the operation apart first: what it issues to change a layout comes back here, and would
            # not if the operation ran as a whole in this handler, where the mode is off.
            return NotImplemented
        kind = kind_of(func)
        if kind is None or ranks_of(args) == 1:
            # Over one rank (data-parallel axes of this small world) nothing is reduced.
            return func(*args, **kwargs)
        tensors = _tensors(args[0] if kind != "all_gather" or len(args) < 2 else args[1])
        op = _op(func, args)
        shape = tuple(tensors[0].shape) if tensors else ()
        call = Call(kind, self.phase, self.size, op, tuple(storage_of(tensor) for tensor in tensors), shape)
        self.calls.append(call)
        self._alive += [tensor.untyped_storage() for tensor in tensors if storage_of(tensor)]
        result = func(*args, **kwargs)
        if self.phase == "loop" and kind == "all_reduce" and op in ("sum", "avg"):
            functional = "_c10d_functional" in str(func.namespace if hasattr(func, "namespace") else func)
            for tensor in _tensors(result) if functional else tensors:
                factor = self.size if op == "sum" else 1
                tensor.mul_(factor * MARK if tensor.is_floating_point() else factor)
        return result

    def reducing(self, phase: str, storage: int) -> list[Call]:
        """Sums and means of a phase that read the given storage."""
        return [
            call
            for call in self.calls
            if call.phase == phase and storage in call.storages and call.kind in ("all_reduce", "reduce_scatter")
        ]

    def count(self, phase: str) -> dict[str, int]:
        """Number of collectives of a phase by kind."""
        counts: dict[str, int] = {}
        for call in self.calls:
            if call.phase == phase:
                counts[call.kind] = counts.get(call.kind, 0) + 1
        return counts


def kind_of(func: Any) -> str | None:
    """The kind of collective that an operator is, None for any other operator."""
    namespace = getattr(func, "namespace", "")
    if "c10d" not in namespace:
        return None
    name = func.__name__.lower()
    for kind, spellings in _KINDS:
        if any(spelling in name for spelling in spellings):
            return kind
    return None


def ranks_of(args: tuple[Any, ...]) -> int:
    """Size of the group that a collective runs on; 0 if none of its arguments says."""
    for argument in args:
        if isinstance(argument, torch.ScriptObject) and "ProcessGroup" in str(argument._type()):
            return int(dist.ProcessGroup.unbox(argument).size())
        if isinstance(argument, dist.ProcessGroup):
            return int(argument.size())
    names = [argument for argument in args if isinstance(argument, str)]
    # Functional collectives name their group last; what stands before it may be the reduction.
    return int(_resolve_process_group(names[-1]).size()) if names else 0


def _op(func: Any, args: tuple[Any, ...]) -> str:
    for argument in args:
        if isinstance(argument, str) and argument in ("sum", "avg", "max", "min", "product"):
            return argument
    for argument in args:
        if isinstance(argument, torch.ScriptObject) and "ReduceOp" in str(argument._type()):
            return str(torch.distributed.ReduceOp.RedOpType(argument.op())).rsplit(".", 1)[-1].lower()
    return "sum"


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def storage_of(tensor: torch.Tensor) -> int:
    """What names the storage of a tensor as long as it lives; 0 where it has none."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return 0
