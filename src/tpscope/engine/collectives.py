"""What the ranks of one tensor-parallel axis say to each other, and Megatron's f and g (arXiv:1909.08053)."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist


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


class ProcessAxis:
    """An axis over a group of torch.distributed."""

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """All-reduce with sum."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def maximum(self, tensor: torch.Tensor) -> torch.Tensor:
        """All-reduce with max."""
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """All-gather."""
        found = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(found, tensor.contiguous(), group=self.group)
        return found

    def _reduced(self, tensor: torch.Tensor, op: Any) -> torch.Tensor:
        result = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result, op=op, group=self.group)
        return result


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


def copy_to_ranks(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """f: in front of a region that every rank computes its part of."""
    return _Copy.apply(tensor, axis)  # type: ignore[no-any-return]


def sum_of_ranks(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """g: behind such a region."""
    return _Sum.apply(tensor, axis)  # type: ignore[no-any-return]


def count_once(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    """A term that is added to the sum of all ranks."""
    return _Once.apply(tensor, rank)  # type: ignore[no-any-return]
