"""Hypotheses about a scene, likeliest first, each with the mend that would confirm it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tpscope.frameworks.inside.proof.border import Border, backward_order
from tpscope.frameworks.inside.proof.driver import Work
from tpscope.frameworks.inside.proof.explain import Layout, fits, simple
from tpscope.frameworks.inside.proof.facing import Facing, decided
from tpscope.frameworks.inside.proof.mends import (
    BiasOnce,
    FreshGradient,
    Mend,
    Retie,
    RightAdapter,
    RightSlice,
    ScaleGradient,
    ScaleInputGradient,
    ScaleLoss,
    ScaleOutput,
    SumGradient,
    SumInputGradient,
    SumOutput,
    Thaw,
    TrueNorm,
)
from tpscope.frameworks.inside.proof.record import Records
from tpscope.frameworks.inside.proof.reference import Grads, Place, Reference
from tpscope.frameworks.inside.proof.round import Round
from tpscope.language.plan import wildcard
from tpscope.language.proof import Cause

Pairs = dict[Place, tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Scene:
    """What is known after one watched run. `ranks`: the different gradients of each tp rank. `shares`: for each of
    them, this rank's gradient and its expected share of every micro-batch's."""

    work: Work
    now: Round
    reference: Reference
    facing: Facing
    ranks: list[Grads]
    shares: dict[str, Pairs]
    borders: list[Border]
    whole: Records | None
    values: dict[str, float]


def candidates(scene: Scene) -> list[Mend]:
    """Hypotheses of rank 0, without repetition."""
    found: list[Mend] = []
    own, passed = list(_gradients(scene)), list(_backward(scene))
    # Where each wrong gradient is explained by itself nothing need be wrong with what modules pass back: under sequence
    # parallelism that is full of partial sums that are reduced later.
    explained = all(_relation(scene, name) is not None for name in scene.now.different)
    later = (*own, *passed) if explained else (*passed, *own)
    first = (*_loaded(scene), *_adapters(scene), *_clipping(scene), *_denominators(scene), *_forward(scene))
    for mend in (*first, *later):
        if mend not in found:
            found.append(mend)
    return found


def suggestions(scene: Scene) -> list[str]:
    """What was done to the different gradients, in words, by their relation to the reference alone. Rank 0's."""
    return decided([f"{mend.cause}: {mend.what}" for mend in _gradients(scene)])


def _loaded(scene: Scene) -> Iterator[Mend]:
    """Weights that are not what the checkpoint holds; ties and trainability that are not the whole model's."""
    wrong = sorted({wildcard(name) for name, error in scene.values.items() if error})
    if wrong:
        yield RightSlice(
            Cause.WRONG_SLICE, tuple(wrong), "", "the loaded weights are not this rank's part of the checkpoint",
            "load the part of the checkpoint that the placement says",
        )  # fmt: skip
    if scene.now.untied:
        yield Retie(
            Cause.UNTIED, ("",), "",
            "the output head and the input embedding are two parameters, where the model has one: each gets only "
            "its own "
            "half of the gradient", "tie the head to the embedding again after sharding",
        )  # fmt: skip
    if names := scene.now.trains_otherwise:
        yield Thaw(
            Cause.TRAINABILITY, tuple(sorted({wildcard(name) for name in names})), "",
            f"{len(names)} parameters train on one side and are frozen on the other",
            "set requires_grad after sharding as the unsharded model has it",
        )  # fmt: skip


def _adapters(scene: Scene) -> Iterator[Mend]:
    """LoRA's matrices that are cut like their base layer, with nothing that sums over tp."""
    if scene.work.request.scenario.lora is None:
        return
    cut = {name: part.dim for name, part in scene.facing.parts.items() if part.dim is not None}
    rows = {wildcard(name.removesuffix(".weight")) for name, dim in cut.items() if ".lora_A" in name and dim == 1}
    columns = {wildcard(name.removesuffix(".weight")) for name, dim in cut.items() if ".lora_B" in name and dim == 0}
    if rows or columns:
        layers = sorted({pattern.partition(".lora_")[0] for pattern in rows | columns})
        yield RightAdapter(
            Cause.ADAPTER_LAYOUT, tuple(layers), f"{len(rows)} row-cut A, {len(columns)} column-cut B",
            f"the adapters of {len(layers)} kinds of layers are made in the size of a shard and used as if whole: "
            "behind a "
            "row-cut A the sum over tp is missing in forward, before a column-cut B in backward",
            "sum over tp behind lora_A of row-parallel layers, and sum the gradient before lora_B of "
            "column-parallel ones",
            rows=tuple(sorted(rows)), columns=tuple(sorted(columns)),
        )  # fmt: skip


def _clipping(scene: Scene) -> Iterator[Mend]:
    """A clipping that went by another norm than that of the whole gradient."""
    if scene.facing.clipped is None:
        return
    _, computed, true = scene.facing.clipped
    if abs(computed - true) > 1e-6 * true:
        yield TrueNorm(
            Cause.CLIP_NORM, ("",), f"{computed / true:.6g}",
            f"the gradient norm that the loop clips by is {computed:.6g}, that of the whole model is {true:.6g}",
            "sum the squares of sharded gradients over tp, and count replicated ones once",
        )  # fmt: skip


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


def _denominators(scene: Scene) -> Iterator[Mend]:
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


def _forward(scene: Scene) -> Iterator[Mend]:
    """What the forward gave wrong, up to and including the first place that nothing explains."""
    if not scene.now.forward_wrong:
        return
    for border in scene.borders:
        gave = border.gave
        if gave is None or gave.right:
            continue
        for where in (wildcard(border.module), border.module):
            yield from _output(scene, border, gave, where)
        if not gave.known:
            yield from _fused(scene, border)
            return


def _output(scene: Scene, border: Border, gave: Layout, where: str) -> Iterator[Mend]:
    """What one wrong output suggests: for every layer's module of this kind, or for this one alone."""
    if gave.kind == "partial" and gave.factor == 1.0:
        yield SumOutput(
            Cause.MISSING_SUM,
            (where,),
            "each rank has its part of the sum",
            f"the output of {where} is a partial sum on every rank: it is not reduced over tp in forward",
            "all-reduce it over tp in forward",
        )
    elif border.bias_times:
        times = border.bias_times
        yield BiasOnce(
            Cause.BIAS_REPEATED,
            (where,),
            f"{times + 1:g} times",
            f"the bias of {where} is added on every rank before the sum over tp",
            "add it once, after the sum",
            times=times,
        )
    elif gave.kind in ("whole", "shard") and gave.factor != 1.0:
        cause, words = _scaled(gave.factor, scene.work.request.tp)
        yield ScaleOutput(
            cause,
            (where,),
            f"{gave.factor:g}",
            f"the output of {where} is {words}",
            f"multiply it by {1 / gave.factor:g}",
            by=1 / gave.factor,
        )


def _fused(scene: Scene, until: Border) -> Iterator[Mend]:
    """A fused weight before the first wrong place that is cut contiguously and not block by block."""
    size = scene.work.request.tp
    names = [border.module for border in scene.borders]
    before = set(names[: names.index(until.module) + 1])
    for name, part in scene.facing.parts_by_claim().items():
        module = name.removesuffix(".weight").removesuffix(".bias")
        if module not in before or part != 0:
            continue
        for sizes in scene.facing.blocks:
            if sum(sizes) == scene.facing.whole[name].shape[0] and all(block % size == 0 for block in sizes):
                patterns = tuple(sorted({wildcard(f"{module}.weight"), wildcard(f"{module}.bias")}))
                yield RightSlice(
                    Cause.WRONG_SLICE, patterns, "+".join(map(str, sizes)),
                    f"{wildcard(module)} holds {len(sizes)} blocks ({'+'.join(map(str, sizes))} rows) and is cut "
                    "across them: "
                    "a rank gets rows of other blocks than its work needs", "cut each block on its own", blocks=sizes,
                )  # fmt: skip


def _backward(scene: Scene) -> Iterator[Mend]:
    """Gradients of activations, from the loss back, up to and including the first that nothing explains."""
    if scene.now.forward_wrong or scene.whole is None:
        return
    partial: list[str] = []
    for border in backward_order(scene.whole, scene.borders):
        came, gave = border.came_gradient, border.gave_gradient
        if came is None or came.right:
            continue
        if came.kind == "partial" and came.factor == 1.0:
            partial.append(border.module)
        elif came.factor != 1.0 and came.kind in ("whole", "shard") and (gave is None or gave.right):
            cause, words = _scaled(came.factor, scene.work.request.tp)
            for where in (wildcard(border.module), border.module):
                yield ScaleInputGradient(
                    cause,
                    (where,),
                    f"{came.factor:g}",
                    f"the gradient that {where} sends back is {words}",
                    f"multiply it by {1 / came.factor:g}",
                    by=1 / came.factor,
                )
        if not came.known:
            break
    patterns = list(dict.fromkeys(wildcard(name) for name in partial))
    groups = [tuple(patterns)] if len(patterns) > 1 else []
    for named in [*groups, *((pattern,) for pattern in patterns), *((name,) for name in partial)]:
        yield SumInputGradient(
            Cause.MISSING_SUM,
            named,
            "each rank has its part of the sum",
            f"the gradient that {', '.join(named)} sends back is a partial sum on every rank: it is not reduced "
            "over tp in "
            "backward",
            "all-reduce it over tp in backward",
        )


def _gradients(scene: Scene) -> Iterator[Mend]:
    """Gradients of parameters that are off by themselves, grouped by what was done to them."""
    found: dict[tuple[str, str, float], list[str]] = {}
    for name in scene.now.different:
        relation = _relation(scene, name)
        if relation is not None:
            found.setdefault(relation, []).append(name)
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
                "the ranks' "
                "copies drift apart",
                "all-reduce (sum) these gradients over tp before the optimizer step",
            )
        elif kind == "accumulation":
            yield FreshGradient(
                Cause.ACCUMULATION,
                patterns,
                factor,
                f"the gradient of {listed} is reduced over tp with what earlier micro-batches left in it, so "
                "these count "
                f"again: {factor}",
                "reduce each micro-batch's own gradient, or the accumulated one once",
            )
        else:
            everything = len(names) == len([row for row in scene.now.rows if row.reference_norm])
            cause, words = _scaled(by, scene.work.request.tp)
            if everything:
                cause, words = Cause.SCALED, f"{by:g} times what it should be"
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


def _relation(scene: Scene, name: str) -> tuple[str, str, float] | None:
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
    """How often each micro-batch's gradient is in `mine`; None if no such numbers explain it."""
    columns = torch.stack([part.flatten() for part in parts], 1)
    solution = torch.linalg.lstsq(columns, mine.flatten()[:, None]).solution[:, 0]
    if float((columns @ solution - mine.flatten()).norm()) > 1e-3 * float(mine.norm()):
        return None
    return [simple(float(value)) for value in solution]


def _scaled(factor: float, tp: int) -> tuple[Cause, str]:
    if factor == tp:
        return Cause.DOUBLE_REDUCTION, f"{tp} times what it should be: a value that is whole already is summed over tp"
    if factor == 1 / tp:
        return Cause.MEAN_NOT_SUM, f"1/{tp} of what it should be: averaged over tp where it should be summed"
    return Cause.SCALED, f"{factor:g} times what it should be"
