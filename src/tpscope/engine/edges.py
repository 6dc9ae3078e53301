"""Edges inside a region: activations gathered in front of a module that couples all slices, and split behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from tpscope.engine.collectives import Axis
from tpscope.engine.hooks import border
from tpscope.engine.vocabulary import gather_last
from tpscope.language.sharding import Edge, EdgeKind, Side


class _SplitLast(torch.autograd.Function):
    """A rank's slice of the last dimension of a tensor that all ranks have; backward gathers the slices' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
        ctx.axis = axis
        length = tensor.shape[-1] // axis.size
        return tensor.narrow(-1, axis.rank * length, length).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.cat(ctx.axis.gather(gradient.contiguous()), -1), None


def split_last(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """The rank's slice of `[..., features]`. Raises ValueError where features do not divide by the ranks."""
    if tensor.shape[-1] % axis.size:
        raise ValueError(f"{tensor.shape[-1]} features do not divide by {axis.size} ranks")
    return _SplitLast.apply(tensor, axis)  # type: ignore[no-any-return]


def hook_edge(module: nn.Module, edge: Edge, axis: Axis) -> None:
    """Put an edge in front of a module or behind it."""

    def cross(tensor: torch.Tensor) -> torch.Tensor:
        if edge.kind is EdgeKind.SPLIT:
            return split_last(tensor, axis)
        return gather_last(tensor, (tensor.shape[-1],) * axis.size, axis)

    if edge.side is Side.OUTPUT:
        border(module, module.register_forward_hook, lambda _, args, output: _first(output, cross))
    else:

        def before(_: Any, args: Any, kwargs: Any) -> Any:
            return _first((args, kwargs), cross)

        border(module, module.register_forward_pre_hook, before, kwargs=True)


def _first(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same tree with its first floating tensor changed."""
    leaves, shape = tree_flatten(tree)
    at = next(i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point())
    leaves[at] = change(leaves[at])
    return tree_unflatten(leaves, shape)
