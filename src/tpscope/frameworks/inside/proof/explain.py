"""How the ranks' tensors at one place make up the whole model's tensor there: by value, not by claim."""

from __future__ import annotations

from dataclasses import dataclass

import torch

TOLERANCE = 1e-3
"""Relative. An explanation only suggests what to mend; whether it was right is shown by mending it."""


@dataclass(frozen=True)
class Layout:
    """`kind`: whole, shard, partial (the ranks' sum), columns (a selection along the last dim), or "" where nothing
    fits. `factor`: what the whole tensor is multiplied by. `vacuous`: the whole tensor is zero here."""

    kind: str
    dim: int | None = None
    factor: float = 1.0
    vacuous: bool = False

    @property
    def right(self) -> bool:
        """True if nothing is wrong with the numbers themselves."""
        return self.vacuous or (self.kind in ("whole", "shard", "columns") and self.factor == 1.0)

    @property
    def known(self) -> bool:
        """True if some explanation fits."""
        return self.vacuous or self.kind != ""

    def __str__(self) -> str:
        words = {
            "whole": "whole",
            "shard": f"sharded on dim {self.dim}",
            "partial": "a partial sum",
            "columns": "a share of the columns",
        }
        text = words.get(self.kind, "explained by no layout")
        return text if self.factor == 1.0 else f"{text} times {self.factor:g}"


UNKNOWN = Layout("")


def explain(locals_: list[torch.Tensor | None], whole: torch.Tensor) -> Layout:
    """The layout of the ranks' tensors, in tp order, against the whole one."""
    if not bool(whole.any()):
        return Layout("whole", vacuous=True)
    if any(local is None for local in locals_):
        return UNKNOWN
    tensors = [local.to(torch.float64) for local in locals_ if local is not None]
    wanted = whole.to(torch.float64)
    if all(tensor.shape == wanted.shape for tensor in tensors):
        if (factor := _factor_all(tensors, wanted)) is not None:
            return Layout("whole", factor=factor)
        if (factor := fits(sum(tensors), wanted)) is not None:  # type: ignore[arg-type]
            return Layout("partial", factor=factor)
        return UNKNOWN
    return _sharded(tensors, wanted)


def fits(mine: torch.Tensor, whole: torch.Tensor, tolerance: float = TOLERANCE) -> float | None:
    """The factor by which `mine` is `whole`, rounded where it is near a simple one; None if it is not."""
    square = float((whole * whole).sum())
    if not square or not bool(torch.isfinite(mine).all()):
        return None
    factor = float((mine * whole).sum()) / square
    if abs(factor) < 1e-6 or float((mine - factor * whole).norm()) > tolerance * abs(factor) * square**0.5:
        return None
    return simple(factor)


def simple(factor: float) -> float:
    """A factor that is a whole number, or one over a whole number, but for noise, is that number."""
    if not factor:
        return factor
    for value in (float(round(factor)), 1 / round(1 / factor) if abs(factor) < 1.5 and round(1 / factor) else 0.0):
        if value and abs(factor - value) < 1e-3 * abs(value):
            return value
    return factor


def _factor_all(tensors: list[torch.Tensor], whole: torch.Tensor) -> float | None:
    factors = [fits(tensor, whole) for tensor in tensors]
    first = factors[0]
    if first is None or any(factor is None or abs(factor - first) > 1e-3 * abs(first) for factor in factors):
        return None
    return first


def _sharded(tensors: list[torch.Tensor], whole: torch.Tensor) -> Layout:
    if any(tensor.dim() != whole.dim() for tensor in tensors):
        return UNKNOWN
    for dim in range(whole.dim()):
        sizes = [tensor.shape[dim] for tensor in tensors]
        rest = [(*tensor.shape[:dim], *tensor.shape[dim + 1 :]) for tensor in tensors]
        across = (*whole.shape[:dim], *whole.shape[dim + 1 :])
        if sum(sizes) != whole.shape[dim] or any(item != across for item in rest):
            continue
        if (factor := fits(torch.cat(tensors, dim), whole)) is not None:
            return Layout("shard", dim, factor)
    return Layout("columns") if all(_columns(tensor, whole) for tensor in tensors) else UNKNOWN


def _columns(tensor: torch.Tensor, whole: torch.Tensor) -> bool:
    """True if every column (last dim) of `tensor` is a column of `whole`."""
    if tensor.shape[:-1] != whole.shape[:-1]:
        return False
    mine, all_ = tensor.reshape(-1, tensor.shape[-1]), whole.reshape(-1, whole.shape[-1])
    direction = torch.randn(mine.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = direction @ mine, direction @ all_
    nearest = (ours[:, None] - theirs[None, :]).abs().min(1)
    found = all_[:, nearest.indices]
    return float((mine - found).norm()) <= TOLERANCE * float(found.norm())
