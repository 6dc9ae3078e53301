"""Models that name CUDA in their constructors, on a machine that has none."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Elsewhere(TorchFunctionMode):
    """Puts what a framework asks to be put on CUDA on `device` instead, and remembers whether that ever happened."""

    def __init__(self, device: str):
        super().__init__()
        self.device = torch.device(device)
        self.used = False

    def __enter__(self) -> Any:
        self._current = torch.cuda.current_device
        torch.cuda.current_device = lambda: 0
        return super().__enter__()

    def __exit__(self, *arguments: Any) -> None:
        torch.cuda.current_device = self._current
        super().__exit__(*arguments)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run one call of torch with every CUDA device in it replaced."""
        kwargs = {name: self._moved(value) for name, value in (kwargs or {}).items()}
        return func(*(self._moved(value) for value in args), **kwargs)

    def _moved(self, value: Any) -> Any:
        on_cuda = isinstance(value, torch.device) and value.type == "cuda"
        if on_cuda or (isinstance(value, str) and value.startswith("cuda")):
            self.used = True
            return self.device
        return value
