"""Full-size models without their memory: fake tensors that stand where a loader would have put weights."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves


class Fake(FakeTensorMode):
    """Fake tensors, except where nothing fake takes part: a mesh reads its own table of ranks while it runs."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run one operator, for real if all its tensors are."""
        tensors = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
        if tensors and not any(isinstance(item, (FakeTensor, DTensor)) for item in tensors):
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextmanager
def unseen() -> Iterator[None]:
    """Keep transformers from seeing that tensors are fake: what it then leaves out is not left out on a GPU."""
    try:
        module: Any = importlib.import_module("transformers.utils.import_utils")
    except ImportError:
        module = None
    told = getattr(module, "is_fake_tensor", None)
    if told is None:
        yield
        return
    module.is_fake_tensor = lambda tensor: False
    try:
        yield
    finally:
        module.is_fake_tensor = told


def filled(model: nn.Module) -> nn.Module:
    """The model with every meta tensor in it replaced by one on the CPU, ties kept. Call it under `Fake`."""
    made: dict[int, torch.Tensor] = {}

    def on_cpu(tensor: torch.Tensor | None, parameter: bool) -> Any:
        if tensor is None:
            return None
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if parameter else empty
        return made[id(tensor)]

    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = on_cpu(parameter, True)
        for name, buffer in module._buffers.items():
            module._buffers[name] = on_cpu(buffer, False)
    return model


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What a rank holds of a tensor."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor
