"""Vocabulary-parallel parts: the loss on logits that every rank has its slice of, and gathering them."""

from __future__ import annotations

from typing import Any

import torch

from tpscope.engine.collectives import Axis

IGNORED = -100


class _CrossEntropy(torch.autograd.Function):
    """Sum of the negative log-likelihoods from sharded logits: two sums and one maximum of a number a token.

    logits `[tokens, local vocabulary]`, labels `[tokens]` in the whole vocabulary (arXiv:1909.08053, section 3).
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, begin: int, axis: Axis) -> torch.Tensor:
        high = axis.maximum(logits.amax(-1))
        exponentials = (logits - high.unsqueeze(-1)).exp()
        total = axis.sum(exponentials.sum(-1))
        local = labels - begin
        mine = (local >= 0) & (local < logits.shape[-1])
        index = local.clamp(0, logits.shape[-1] - 1).unsqueeze(-1)
        right = torch.where(mine, logits.gather(-1, index).squeeze(-1), 0)
        counted = labels != IGNORED
        loss = torch.where(counted, total.log() + high - axis.sum(right), 0)
        ctx.save_for_backward(exponentials / total.unsqueeze(-1), index, mine, counted)
        return loss.sum()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        probabilities, index, mine, counted = ctx.saved_tensors
        found = probabilities.clone()
        found.scatter_add_(-1, index, -mine.to(found.dtype).unsqueeze(-1))
        return found * counted.unsqueeze(-1) * gradient, None, None, None


def causal_loss(logits: torch.Tensor, labels: torch.Tensor, begin: int, axis: Axis) -> torch.Tensor:
    """Mean next-token loss of logits `[batch, seq, local vocabulary]`, the same on every rank.

    `begin` is the rank's first entry of the vocabulary; labels of -100 do not count.
    """
    wanted = labels[:, 1:].reshape(-1)
    rows = logits[:, :-1].reshape(-1, logits.shape[-1])
    total: torch.Tensor = _CrossEntropy.apply(rows, wanted, begin, axis)  # type: ignore[assignment]
    return total / (wanted != IGNORED).sum()


class _GatherLast(torch.autograd.Function):
    """Slices of the last dimension side by side; backward takes the rank's own slice of a gradient that all have."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, sizes: tuple[int, ...], axis: Axis) -> torch.Tensor:
        ctx.sizes, ctx.rank = sizes, axis.rank
        padded = torch.nn.functional.pad(tensor, (0, max(sizes) - tensor.shape[-1]))
        parts = axis.gather(padded)
        return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        begin = sum(ctx.sizes[: ctx.rank])
        return gradient.narrow(-1, begin, ctx.sizes[ctx.rank]).contiguous(), None, None


def gather_last(tensor: torch.Tensor, sizes: tuple[int, ...], axis: Axis) -> torch.Tensor:
    """The whole of a tensor whose last dimension lies over the ranks in parts of `sizes`."""
    return _GatherLast.apply(tensor, sizes, axis)  # type: ignore[no-any-return]
