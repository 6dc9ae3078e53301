"""Changes at the borders of a module: what goes in, what comes out, and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside.proof.slices import local_of


def summed(tensor: torch.Tensor, group: Any) -> torch.Tensor:
    """The sum of what the ranks of a group hold of a tensor, as a new tensor of the same kind."""
    value = local_of(tensor).detach().clone().contiguous()
    dist.all_reduce(value, group=group)
    return _like(value, tensor)


def _like(value: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(tensor, DTensor):
        return value
    return DTensor.from_local(
        value, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


class Sum(torch.autograd.Function):
    """Megatron's g (arXiv:1909.08053): all-reduce forward, identity backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Any) -> torch.Tensor:
        return summed(tensor, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0], None


class Copy(torch.autograd.Function):
    """Megatron's f (arXiv:1909.08053): identity forward, all-reduce backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return summed(grads[0], ctx.group), None


class ScaleBackward(torch.autograd.Function):
    """Identity forward, a factor backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0] * ctx.factor, None


class Wait(torch.autograd.Function):
    """The result of a collective as a plain tensor, waited for here; identity backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        value = tensor.wait() if isinstance(tensor, AsyncCollectiveTensor) else tensor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0]


def outputs(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Have a module's first tensor out changed."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return change(output)
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return output

    module.register_forward_hook(hook)


def inputs(model: nn.Module, module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Have the first floating tensor into a module of `model` changed, before its parallel style sees it.

    The hook is set when the model is first called and not before: what prepares a model for training may look at its
    hooks (transformers 4.57 gives a style's hooks only to a module that has none before its forward).
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for index, value in enumerate(args):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 1:
                return (*args[:index], change(value), *args[index + 1 :]), kwargs
        for key, value in kwargs.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 1:
                return args, {**kwargs, key: change(value)}
        return None

    def begin(*_: Any) -> None:
        first.remove()
        module.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)

    first = model.register_forward_pre_hook(begin)
