"""What the ranks of one tensor-parallel axis say to each other, and Megatron's f and g (arXiv:1909.08053)."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _resolve_process_group

# Functional collectives: torch.compile traces them. Eager code calls the group itself, at a fraction of the dispatch.
_C10D = torch.ops._c10d_functional
_SUM = dist.ReduceScatterOptions()
_compiling = torch.compiler.is_compiling


class Axis(Protocol):
    """The ranks that share one copy of the model."""

    rank: int
    size: int

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the ranks' tensors, a new tensor on every rank."""
        ...

    def maximum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The largest of the ranks' tensors, element by element."""
        ...

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all ranks, of equal shape, in the order of ranks."""
        ...


class SequenceAxis(Axis, Protocol):
    """An axis whose ranks can also share out the sequence, dimension 1 of `[batch, seq, ...]`."""

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        """The ranks' parts of a sequence one after the other."""
        ...

    def sum_shared(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's part of the sequence of the sum of the ranks' tensors."""
        ...


class ProcessAxis:
    """An axis over a group of torch.distributed, by its name: it can be copied and compiled."""

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.name: str = (group or dist.group.WORLD).group_name  # type: ignore[union-attr]

    def _group(self) -> dist.ProcessGroup:
        return _resolve_process_group(self.name)  # type: ignore[arg-type]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """All-reduce with sum."""
        if _compiling():
            return _done(_C10D.all_reduce(tensor.contiguous(), "sum", self.name))
        found = tensor.clone(memory_format=torch.contiguous_format)
        self._group().allreduce([found]).wait()
        return found

    def add_up(self, tensor: torch.Tensor) -> None:
        """All-reduce with sum, in place."""
        self._group().allreduce([tensor]).wait()

    def maximum(self, tensor: torch.Tensor) -> torch.Tensor:
        """All-reduce with max."""
        return _done(_C10D.all_reduce(tensor.contiguous(), "max", self.name))

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """All-gather."""
        flat = _done(_C10D.all_gather_into_tensor(tensor.contiguous().view(1, -1), self.size, self.name))
        return [part.view(tensor.shape) for part in flat.unbind(0)]

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        """All-gather along the sequence."""
        batch, length, *rest = tensor.shape
        if _compiling():
            found = _done(_C10D.all_gather_into_tensor(tensor.contiguous(), self.size, self.name))
        else:
            found = tensor.new_empty(self.size * batch, length, *rest)
            self._group()._allgather_base(found, tensor.contiguous()).wait()
        return found.view(1, self.size * length, *rest) if batch == 1 else torch.cat(found.chunk(self.size, 0), 1)

    def sum_shared(self, tensor: torch.Tensor) -> torch.Tensor:
        """Reduce-scatter along the sequence."""
        batch, length, *rest = tensor.shape
        if batch == 1:
            parts = tensor.contiguous().view(self.size, length // self.size, *rest)
        else:
            parts = torch.cat(tensor.chunk(self.size, 1), 0)
        if _compiling():
            return _done(_C10D.reduce_scatter_tensor(parts, "sum", self.size, self.name))
        found = tensor.new_empty(batch, length // self.size, *rest)
        self._group()._reduce_scatter_base(found, parts, _SUM).wait()
        return found

    def broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        """The first rank's tensor on every rank."""
        return self.gather(tensor)[0]


def _done(tensor: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = _C10D.wait_tensor(tensor)
    return found


class _Copy(torch.autograd.Function):
    """Megatron's f: identity forward, sum of the ranks' gradients backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
        ctx.axis = axis
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.axis.sum(gradient), None


class _Sum(torch.autograd.Function):
    """Megatron's g: sum of the ranks' tensors forward, identity backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
        return axis.sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


class _Once(torch.autograd.Function):
    """A term of a sum over ranks that counts once: itself on rank 0, zeros elsewhere; the gradient is whole on all."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, rank: int) -> torch.Tensor:
        return tensor.view_as(tensor) if rank == 0 else torch.zeros_like(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


class _Gather(torch.autograd.Function):
    """f of sequence parallelism (arXiv:2205.05198): all-gather forward, reduce-scatter backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, axis: SequenceAxis) -> torch.Tensor:
        ctx.axis = axis
        return axis.gathered(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.axis.sum_shared(gradient), None


class _Scatter(torch.autograd.Function):
    """g of sequence parallelism: reduce-scatter forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, axis: SequenceAxis) -> torch.Tensor:
        ctx.axis = axis
        return axis.sum_shared(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.axis.gathered(gradient), None


class _Part(torch.autograd.Function):
    """This rank's part of a sequence that all ranks have; the ranks' gradients are parts of one."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, axis: SequenceAxis) -> torch.Tensor:
        ctx.axis = axis
        length = tensor.shape[1] // axis.size
        return tensor.narrow(1, axis.rank * length, length).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.axis.gathered(gradient), None


class _Whole(torch.autograd.Function):
    """The whole sequence of which every rank has its part; all ranks go on with equal gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, axis: SequenceAxis) -> torch.Tensor:
        ctx.axis, ctx.length = axis, tensor.shape[1]
        return axis.gathered(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient.narrow(1, ctx.axis.rank * ctx.length, ctx.length).contiguous(), None


def copy_to_ranks(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """f: in front of a region that every rank computes its part of."""
    return _Copy.apply(tensor, axis)  # type: ignore[no-any-return]


# What makes these tensors keeps nothing of them for its backward: they can be changed in place.
_UNKEPT = {"MmBackward0", "UnsafeViewBackward0", "AddmmBackward0", "AddBackward0"}


def sum_of_ranks(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """g: behind such a region. The sum takes the tensor's place where it may; g's backward is the identity."""
    if (
        not _compiling() and isinstance(axis, ProcessAxis)
        and tensor.grad_fn is not None and tensor.grad_fn.name() in _UNKEPT and tensor.is_contiguous()
    ):  # fmt: skip
        with torch.no_grad():
            axis.add_up(tensor)
        return tensor
    return _Sum.apply(tensor, axis)  # type: ignore[no-any-return]


def count_once(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    """A term that is added to the sum of all ranks."""
    return _Once.apply(tensor, rank)  # type: ignore[no-any-return]


def gather_sequence(tensor: torch.Tensor, axis: SequenceAxis) -> torch.Tensor:
    """In front of a region, `[batch, seq / ranks, ...]` to `[batch, seq, ...]`."""
    return _Gather.apply(tensor, axis)  # type: ignore[no-any-return]


def scatter_sequence(tensor: torch.Tensor, axis: SequenceAxis) -> torch.Tensor:
    """Behind a region, the sum of the ranks, `[batch, seq, ...]` to `[batch, seq / ranks, ...]`."""
    return _Scatter.apply(tensor, axis)  # type: ignore[no-any-return]


def part_of_sequence(tensor: torch.Tensor, axis: SequenceAxis) -> torch.Tensor:
    """In front of the first layer: from here on a rank has its part of the sequence."""
    return _Part.apply(tensor, axis)  # type: ignore[no-any-return]


def whole_sequence(tensor: torch.Tensor, axis: SequenceAxis) -> torch.Tensor:
    """Behind the last layer: from here on every rank has the whole sequence again."""
    return _Whole.apply(tensor, axis)  # type: ignore[no-any-return]
