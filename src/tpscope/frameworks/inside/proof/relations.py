"""Hypotheses about gradients of parameters, by their relation to the reference's alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tpscope.frameworks.inside.proof.explain import fits, simple
from tpscope.frameworks.inside.proof.facing import decided
from tpscope.frameworks.inside.proof.mends import EVERY, FreshGradient, Mend, ScaleGradient, ScaleLoss, SumGradient
from tpscope.frameworks.inside.proof.scene import Scene
from tpscope.language.plan import wildcard
from tpscope.language.proof import Cause


def suggestions(scene: Scene) -> list[str]:
    """What was done to the different gradients, in words, by their relation to the reference alone. Rank 0's."""
    return decided([f"{mend.cause}: {mend.what}" for mend in of_gradients(scene)])


def uniform_weights(scene: Scene) -> list[float] | None:
    """How often most gradients count each micro-batch, in the order of the reference's; None if no such numbers hold
    for more than half of the parameters. Rank 0's."""
    graded = [row.name for row in scene.now.rows if row.reference_norm]
    found: list[list[float]] = []
    for name in graded:
        pairs = scene.shares.get(name) or {}
        if len(pairs) != len(scene.reference.parts):
            return None
        mine = next(iter(pairs.values()))[0].to(torch.float64)
        weights = _weights(mine, [pair[1].to(torch.float64) for pair in pairs.values()])
        if weights is not None:
            found.append(weights)
    most = max(found, key=lambda own: sum(_near(own, other) for other in found), default=None)
    if most is None or not all(most) or sum(_near(most, other) for other in found) * 2 <= len(graded):
        return None
    return most


def _near(one: list[float], other: list[float]) -> bool:
    return all(abs(mine - yours) < 1e-2 * abs(yours) for mine, yours in zip(one, other, strict=True))


def denominators(scene: Scene) -> Iterator[Mend]:
    """Every gradient counts the micro-batches with the same wrong weights: the loss is divided by another number."""
    if scene.now.forward_wrong or len(scene.reference.parts) < 2:
        return
    first = uniform_weights(scene)
    if first is None:
        return
    places = list(scene.reference.parts)
    by = tuple(
        tuple(1 / first[index] for index, place in enumerate(places) if place[0] == rank)
        for rank in range(scene.work.request.scenario.dp_shard)
    )
    listed = ", ".join(f"{weight:.4g}" for weight in first)
    yield ScaleLoss(
        Cause.SCALED,
        ("",),
        listed,
        f"gradients count the micro-batches {listed} times: the loss of each is divided by another number than "
        "that of all labels of the step",
        "divide the loss by the number of labels over all micro-batches and data ranks",
        by=by,
    )


def of_gradients(scene: Scene) -> Iterator[Mend]:
    """Gradients of parameters that are off by themselves, grouped by what was done to them."""
    found: dict[tuple[str, str, float], list[str]] = {}
    for name in scene.now.different:
        done = relation(scene, name)
        if done is not None:
            found.setdefault(done, []).append(name)
    # The largest group first: what was done to everything is one fault.
    for (kind, factor, by), names in sorted(found.items(), key=lambda item: -len(item[1])):
        patterns = _patterns(names, scene)
        listed = ", ".join(patterns[:6]) + (f" and {len(patterns) - 6} more" if len(patterns) > 6 else "")
        if kind == "sum":
            yield SumGradient(
                Cause.MISSING_SUM,
                patterns,
                factor,
                f"each rank keeps its own part of the gradient of {listed}: the sum over tp is never taken, and "
                "the ranks' copies drift apart",
                "all-reduce (sum) these gradients over tp before the optimizer step",
            )
        elif kind == "accumulation":
            yield FreshGradient(
                Cause.ACCUMULATION,
                patterns,
                factor,
                f"the gradient of {listed} is reduced over tp with what earlier micro-batches left in it, so "
                f"these count again: {factor}",
                "reduce each micro-batch's own gradient, or the accumulated one once",
            )
        else:
            everything = len(names) == len([row for row in scene.now.rows if row.reference_norm])
            cause, words = scaled(by, scene.work.request.tp)
            if everything:
                cause, patterns, listed = Cause.SCALED, (EVERY,), "every parameter"
                words = f"{by:g} times what it should be"
            yield ScaleGradient(
                cause,
                patterns,
                factor,
                f"the gradient of {listed} is {words}",
                f"multiply it by {1 / by:g}",
                by=1 / by,
            )


def _patterns(names: list[str], scene: Scene) -> tuple[str, ...]:
    """The names, with `*` where every layer's parameter of a kind is among them."""
    kinds: dict[str, list[str]] = {}
    for name in scene.facing.whole:
        kinds.setdefault(wildcard(name), []).append(name)
    found = {wildcard(name) if set(kinds[wildcard(name)]) <= set(names) else name for name in names}
    return tuple(sorted(found))


def relation(scene: Scene, name: str) -> tuple[str, str, float] | None:
    """What was done to one gradient: ("sum" | "scale" | "accumulation", words, number)."""
    pairs = scene.shares.get(name) or {}
    if not pairs or name not in scene.ranks[0]:
        return None
    mine = next(iter(pairs.values()))[0].to(torch.float64)
    whole = sum(pair[1].to(torch.float64) for pair in pairs.values())
    assert isinstance(whole, torch.Tensor)
    together = [rank[name].to(torch.float64) for rank in scene.ranks if name in rank]
    if scene.facing.replicated(name) and len(together) == len(scene.ranks):
        total = torch.stack(together).sum(0)
        factor = fits(total, whole) if total.shape == whole.shape else None
        if factor is not None and not all(fits(one, whole) for one in together):
            return ("sum", "each rank has its part of the sum" + ("" if factor == 1 else f" times {factor:g}"), 1.0)
    if (factor := fits(mine, whole)) is not None and factor != 1.0:
        return "scale", f"{factor:.4g}", simple(float(f"{factor:.6g}"))
    if len(pairs) > 1 and (weights := _weights(mine, [pair[1].to(torch.float64) for pair in pairs.values()])):
        return "accumulation", "micro-batches count " + ", ".join(f"{weight:g}" for weight in weights) + " times", 1.0
    return None


def _weights(mine: torch.Tensor, parts: list[torch.Tensor]) -> list[float] | None:
    """How often each micro-batch's gradient is in `mine`; None if no such numbers explain it, or where a micro-batch
    gives none (an expert that it does not reach)."""
    if not all(bool(part.any()) for part in parts):
        return None
    columns = torch.stack([part.flatten() for part in parts], 1)
    solution = torch.linalg.lstsq(columns, mine.flatten()[:, None]).solution[:, 0]
    if float((columns @ solution - mine.flatten()).norm()) > 1e-3 * float(mine.norm()):
        return None
    return [simple(float(value)) for value in solution]


def scaled(factor: float, tp: int) -> tuple[Cause, str]:
    """What a factor means at a number of ranks, in a word and in words."""
    if factor == tp:
        return Cause.DOUBLE_REDUCTION, f"{tp} times what it should be: a value that is whole already is summed over tp"
    if factor == 1 / tp:
        return Cause.MEAN_NOT_SUM, f"1/{tp} of what it should be: averaged over tp where it should be summed"
    return Cause.SCALED, f"{factor:g} times what it should be"
