"""Gradients of a sharded model against the reference's: one row a parameter, worst over all ranks."""

from __future__ import annotations

import torch

from tpscope.frameworks.inside.proof.facing import Facing, everywhere
from tpscope.frameworks.inside.proof.reference import Grads, Reference
from tpscope.language.proof import ParameterProof


def judge(facing: Facing, grads: Grads, reference: Reference, wanted: Grads | None = None) -> list[ParameterProof]:
    """One row a parameter that trains anywhere: worst error over all ranks, and whether replicas agree."""
    wanted = reference.total if wanted is None else wanted
    errors: dict[str, float] = {}
    replicas: dict[str, torch.Tensor] = {}
    finite: dict[str, bool] = {}
    for name in facing.whole:
        whole, mine = wanted.get(name), grads.get(name)
        if name not in facing.mine or (whole is None and mine is None):
            continue
        whole = whole if whole is not None else torch.zeros_like(facing.whole[name])
        pair = None if mine is None else facing.pair(name, mine, whole)
        if mine is None:
            errors[name] = reference.error(name, None, whole)
            continue
        if pair is None:
            errors[name] = float("inf")
            continue
        finite[name] = bool(torch.isfinite(pair[0]).all())
        errors[name] = reference.error(name, pair[0], pair[1])
        if facing.replicated(name):
            replicas[name] = pair[0].to(torch.float64)
    apart = _apart(facing, replicas, reference)
    return _rows(facing, errors, finite, apart, reference, wanted)


def _apart(facing: Facing, replicas: dict[str, torch.Tensor], reference: Reference) -> dict[str, float]:
    """Largest relative distance of any tp rank's replica from the first one's."""
    others = facing.groups.over_tp(replicas)
    found = {}
    for name, first in others[0].items():
        distance = max(
            float((other[name] - first).norm()) if name in other and other[name].shape == first.shape else float("inf")
            for other in others
        )
        found[name] = distance / reference.scale(name)
    return found


def _rows(
    facing: Facing,
    errors: dict[str, float],
    finite: dict[str, bool],
    apart: dict[str, float],
    reference: Reference,
    wanted: Grads,
) -> list[ParameterProof]:
    mine = {
        name: (
            error,
            finite.get(name, True),
            apart.get(name, 0.0),
            facing.placement(name),
            facing.mine[name].requires_grad,
        )
        for name, error in errors.items()
        if name in facing.mine
    }
    found: dict[str, list[tuple[float, bool, float, str, bool]]] = {}
    for answers in everywhere(mine):
        for name, answer in answers.items():
            found.setdefault(name, []).append(answer)
    rows = []
    for name in facing.whole:
        if name not in found:
            continue
        tolerance, ranks = reference.tolerance(name), found[name]
        rows.append(
            ParameterProof(
                name, max(rank[0] for rank in ranks), tolerance, all(rank[2] <= tolerance for rank in ranks),
                finite=all(rank[1] for rank in ranks),
                reference_norm=float(wanted[name].norm()) if name in wanted else 0.0,
                placement=ranks[0][3], trainable=ranks[0][4],
            )
        )  # fmt: skip
    return rows
