"""The noise floor: how far the reference moves when every result of every operation is one ulp off."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Jitter(TorchDispatchMode):
    """Makes half of the numbers that any operation computes one ulp of their own dtype smaller.

    What a cast to float32 inside a float64 model costs is thereby measured, not guessed. Numbers are made smaller
    only: a mask's largest negative number would overflow.
    """

    def __init__(self, seed: int):
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)
        self._fresh: dict[Any, bool] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run one operation, then disturb what it made."""
        result = func(*args, **(kwargs or {}))
        if func not in self._fresh:
            self._fresh[func] = all(returned.alias_info is None for returned in func._schema.returns)
        if self._fresh[func]:
            for tensor in tree_leaves(result):
                if type(tensor) is torch.Tensor and tensor.is_floating_point() and tensor.numel():
                    self._disturb(tensor)
        return result

    def _disturb(self, tensor: torch.Tensor) -> None:
        if any(stride == 0 for stride in tensor.stride()):
            return
        ulp = torch.finfo(tensor.dtype).eps
        bits = torch.randint(0, 2, tensor.shape, generator=self._generator, dtype=torch.uint8)
        tensor.mul_(1 - bits.to(tensor.dtype) * ulp)
