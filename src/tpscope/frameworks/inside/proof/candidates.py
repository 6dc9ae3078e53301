"""Hypotheses about a scene, likeliest first, each with the mend that would confirm it."""

from __future__ import annotations

from collections.abc import Iterator

from tpscope.frameworks.inside.proof.border import Border, backward_order
from tpscope.frameworks.inside.proof.explain import Layout
from tpscope.frameworks.inside.proof.mends import (
    BiasOnce,
    Mend,
    Retie,
    RightAdapter,
    RightSlice,
    ScaleInputGradient,
    ScaleOutput,
    SumInputGradient,
    SumOutput,
    Thaw,
    TrueNorm,
    WaitOutput,
    WholeNorm,
)
from tpscope.frameworks.inside.proof.relations import denominators, of_gradients, relation, scaled
from tpscope.frameworks.inside.proof.scene import Scene
from tpscope.language.plan import wildcard
from tpscope.language.proof import Cause

_RIGHT_NORM = "sum the squares of sharded gradients over tp, and count replicated ones once"


def candidates(scene: Scene) -> list[Mend]:
    """Hypotheses of rank 0, without repetition."""
    found: list[Mend] = []
    own, passed = list(of_gradients(scene)), list(_backward(scene))
    # Where each wrong gradient is explained by itself nothing need be wrong with what modules pass back: under sequence
    # parallelism that is full of partial sums that are reduced later.
    explained = all(relation(scene, name) is not None for name in scene.now.different)
    later = (*own, *passed) if explained else (*passed, *own)
    first = (
        *_loaded(scene), *lost(scene.borders), *_adapters(scene), *_clipping(scene), *denominators(scene),
        *_forward(scene),
    )  # fmt: skip
    for mend in (*first, *later):
        if mend not in found:
            found.append(mend)
    return found


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
            "its own half of the gradient", "tie the head to the embedding again after sharding",
        )  # fmt: skip
    if names := scene.now.trains_otherwise:
        yield Thaw(
            Cause.TRAINABILITY, tuple(sorted({wildcard(name) for name in names})), "",
            f"{len(names)} parameters train on one side and are frozen on the other",
            "set requires_grad after sharding as the unsharded model has it",
        )  # fmt: skip


def lost(borders: list[Border]) -> Iterator[Mend]:
    """Outputs that no gradient comes back to, where that may be because nobody has waited for them yet."""
    for border in borders:
        if border.lost and border.waits:
            where = wildcard(border.module)
            yield WaitOutput(
                Cause.TRAINABILITY, (where,), "no gradient",
                f"no gradient comes back to the output of {where}: {border.into or 'what follows'} takes it as an "
                "AsyncCollectiveTensor, a collective that nobody has waited for, and treats it as a constant",
                f"wait for the collective of {where}, with its gradient, before {border.into or 'anything'} takes it",
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
            "behind a row-cut A the sum over tp is missing in forward, before a column-cut B in backward",
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
            _RIGHT_NORM,
        )  # fmt: skip
        yield WholeNorm(
            Cause.CLIP_NORM, ("",), f"{computed:.6g} on the first rank",
            "each rank clips by a norm of its own, not by that of the whole gradient", _RIGHT_NORM,
        )  # fmt: skip


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
        cause, words = scaled(gave.factor, scene.work.request.tp)
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
        rows = scene.facing.whole[name].shape[0]
        for sizes in scene.facing.blocks:
            if sum(sizes) == rows and all(block % size == 0 for block in sizes):
                patterns = _as_long(scene, module.removesuffix(".base_layer"), rows)
                yield RightSlice(
                    Cause.WRONG_SLICE, patterns, "+".join(map(str, sizes)),
                    f"{wildcard(module)} holds {len(sizes)} blocks ({'+'.join(map(str, sizes))} rows) and is cut "
                    "across them: a rank gets rows of other blocks than its work needs",
                    "cut each block on its own", blocks=sizes,
                )  # fmt: skip


def _as_long(scene: Scene, module: str, rows: int) -> tuple[str, ...]:
    """The parameters of a layer that have a row for each of its outputs: its weight, bias and adapter's B."""
    mine = [name for name, tensor in scene.facing.whole.items() if name.startswith(f"{module}.")]
    return tuple(sorted({wildcard(name) for name in mine if scene.facing.whole[name].shape[0] == rows}))


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
            cause, words = scaled(came.factor, scene.work.request.tp)
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
            "over tp in backward",
            "all-reduce it over tp in backward",
        )
