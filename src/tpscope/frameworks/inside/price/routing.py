"""What code asks of data that is not there: the answer of a batch without padding and of a router that is balanced."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside.price.where import Place

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts")
_CHOSEN = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_top_k", "top_k_experts",
)  # fmt: skip
_aten = torch.ops.aten


class Routing:
    """Answers for the operators whose result depends on data."""

    def __init__(self, model: nn.Module, tokens: int):
        config = model.config.get_text_config()
        self.experts = next((int(value) for key in _EXPERTS if (value := getattr(config, key, None))), 0)
        self.chosen = next((int(value) for key in _CHOSEN if (value := getattr(config, key, None))), 1)
        self.tokens = tokens
        self.asked: Counter[str] = Counter()

    @property
    def share(self) -> int:
        """Tokens of one expert where every expert gets as many as the next."""
        return max(1, self.tokens * self.chosen // self.experts) if self.experts else 1

    def answered(self, func: Any, args: tuple[Any, ...], place: Place, phase: str) -> Any:
        """The answer, or NotImplemented for an operator that does not depend on data."""
        if func is _aten._local_scalar_dense.default:
            return self._number(args[0], place, phase)
        if func is _aten.nonzero.default:
            return args[0].new_empty((self._found(args[0], place, phase), args[0].dim()), dtype=torch.int64)
        if func is _aten.nonzero_numpy.default:
            found = self._found(args[0], place, phase)
            return [args[0].new_empty((found,), dtype=torch.int64) for _ in range(args[0].dim())]
        if func is _aten.equal.default:
            # What a loss divided by its tokens hands back is not one.
            self._note("whether two tensors are equal (answered no)", place, phase)
            return False
        if func is _aten.bincount.default and self.experts:
            self._note("counts of tokens by expert", place, phase)
            return args[0].new_empty((max(self.experts, *[size for size in args[1:] if isinstance(size, int)], 0),))
        return NotImplemented

    def _number(self, tensor: torch.Tensor, place: Place, phase: str) -> Any:
        if tensor.dtype == torch.bool:
            self._note("yes or no", place, phase)
            return True
        if tensor.is_floating_point():
            if phase != "step":
                self._note("a number", place, phase)
            return 1.0
        routed = self.experts and place.layer is not None
        if phase != "step":
            self._note("tokens of an expert" if routed else "a number", place, phase)
        return self.share if routed else 1

    def _found(self, tensor: torch.Tensor, place: Place, phase: str) -> int:
        self._note("where something holds", place, phase)
        if not self.experts or tensor.numel() <= self.experts:
            return tensor.numel()
        return max(1, tensor.numel() // self.experts)

    def _note(self, what: str, place: Place, phase: str) -> None:
        self.asked[f"{what}: {phase}, {place.module or 'outside the model'}"] += 1
