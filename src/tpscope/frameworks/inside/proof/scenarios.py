"""What single scenarios add to a proof: steps, saving, dropout's random streams, the data that ranks are given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from tpscope.frameworks.inside.case import Refused
from tpscope.frameworks.inside.proof import slices
from tpscope.frameworks.inside.proof.data import tokens
from tpscope.frameworks.inside.proof.driver import Training
from tpscope.frameworks.inside.proof.dropout import judged
from tpscope.frameworks.inside.proof.facing import Facing, decided, everywhere
from tpscope.frameworks.inside.proof.reference import MULTIPLE, Grads, forget, gradients, parameters, run
from tpscope.language.answer import Failure
from tpscope.language.plan import wildcard
from tpscope.language.proof import Cause, Diagnosis, ParameterProof
from tpscope.language.verdict import Status, Verdict

if TYPE_CHECKING:
    from tpscope.frameworks.inside.proof.proof import Proof
    from tpscope.frameworks.inside.proof.round import Round

SAMPLES = 24


def stepped(proof: Proof, loop: Round) -> tuple[list[ParameterProof], list[Diagnosis]]:
    """Every trained parameter after the loop's optimizer steps, against AdamW on the whole model."""
    facing = loop.facing
    assert facing is not None
    proof.mutation.on_stepped(facing)
    start = {name: tensor.detach().clone() for name, tensor in parameters(proof.whole).items()}
    with proof.during("reference steps"):
        after = _adamw(proof, start, 0.0, 0)
        shaken = _adamw(proof, start, 1.0, 1)
    rows = []
    errors: dict[str, tuple[float, bool]] = {}
    for name, tensor in facing.mine.items():
        if name not in after or not tensor.requires_grad:
            continue
        moved = float((after[name] - start[name]).norm()) or 1.0
        pair = facing.pair(name, tensor.detach(), after[name])
        error = float("inf") if pair is None else float((pair[0].to(torch.float64) - pair[1]).norm()) / moved
        errors[name] = (error, True if pair is None else bool(torch.isfinite(pair[0]).all()))
    apart = _apart(facing, after, start)
    everyone = everywhere((errors, apart))
    for name in after:
        found = [one[0][name] for one in everyone if name in one[0]]
        if not found:
            continue
        moved = float((after[name] - start[name]).norm()) or 1.0
        floor = float((shaken[name] - after[name]).norm()) / moved
        tolerance = MULTIPLE * max(floor, torch.finfo(torch.float64).eps)
        agree = all(one[1].get(name, 0.0) <= tolerance for one in everyone)
        rows.append(
            ParameterProof(
                name, max(one[0] for one in found), tolerance, agree, "stepped", all(one[1] for one in found), moved,
                facing.placement(name) if name in facing.mine else "",
            )
        )  # fmt: skip
    return rows, _drift(rows, decided({name: error for name, (error, _) in errors.items()}))


def _drift(rows: list[ParameterProof], first: dict[str, float]) -> list[Diagnosis]:
    """`first`: errors on rank 0. If its copies are right, giving them to its peers is the mend."""
    wrong = [row for row in rows if not row.equal]
    if not wrong:
        return []
    names = [row.name for row in wrong]
    apart = [row for row in wrong if not row.ranks_agree]
    right = all(first.get(row.name, float("inf")) <= row.tolerance for row in wrong)
    patterns = ", ".join(sorted({wildcard(name) for name in names})[:6])
    if apart and right:
        return [
            Diagnosis(
                Cause.DRIFT,
                patterns,
                names,
                "",
                f"gradients are right, and after the optimizer's steps the copies of {patterns} are no longer the "
                "same on all ranks",
                True,
                mend="give every rank the first rank's copies after a step",
            )
        ]
    words = f"gradients are right, and after the optimizer's steps {len(names)} parameters are not"
    return [Diagnosis(Cause.UNKNOWN, patterns, names, "", words, False)]


def started(names: list[str], rest_equal: bool) -> Diagnosis:
    """Adapters whose replicas started with other numbers on each rank."""
    patterns = sorted({wildcard(name) for name in names})
    return Diagnosis(
        Cause.INIT_DIFFERS,
        ", ".join(patterns),
        names,
        "",
        f"{len(names)} replicated adapter matrices start with other numbers on each tp rank",
        rest_equal,
        mend="seed the initialisation alike on all tp ranks, or broadcast from the first",
    )


def streams(proof: Proof) -> list[Diagnosis]:
    """The masks of the loop's dropouts: equal over tp where activations are whole, different where they are sharded."""
    masks = proof.groups.over_tp(proof.masks)
    found = judged(masks, proof.whole_masks)
    if not proof.whole_masks:
        raise Refused(Status.UNSUPPORTED, Failure("NoDropout", "nothing in this model draws a dropout mask", "dropout"))
    proof.answer.measured["dropouts"] = len(found)
    wrong = [(index, sharded) for index, sharded, right in found if not right]
    if found and not wrong:
        return []
    if not found:
        words = (
            f"the ranks draw {sorted({len(one) for one in masks})} masks, the unsharded model {len(proof.whole_masks)}"
        )
        return [Diagnosis(Cause.RNG, "dropout", [], "", words, False)]
    layout = {index: sharded for index, sharded, _ in found}
    mended = proof.loop_round(
        proof.shard(), seed=lambda index, _: 1000 * index + (proof.work.tp_rank if layout.get(index) else 0)
    )
    again = judged(proof.groups.over_tp(proof.masks), proof.whole_masks)
    same = sum(sharded for _, sharded in wrong)
    words = []
    if same:
        words.append(
            f"{same} dropouts on sharded activations draw the same mask on every rank: heads of different ranks "
            "lose the same positions"
        )
    if len(wrong) - same:
        words.append(
            f"{len(wrong) - same} dropouts on whole activations draw other masks on each rank: the ranks go on with "
            "different numbers"
        )
    return [
        Diagnosis(
            Cause.RNG,
            "dropout",
            [],
            f"{len(wrong)} of {len(found)}",
            "; ".join(words),
            bool(again) and all(right for _, _, right in again) and not mended.different,
            mend="draw masks of whole activations from a stream that all tp ranks share, those of sharded ones from a "
            "stream of each rank",
        )
    ]


def _apart(facing: Facing, after: Grads, start: Grads) -> dict[str, float]:
    """Distance of the tp replicas from the first one's, in lengths of the step."""
    mine = {
        name: pair[0].to(torch.float64)
        for name, tensor in facing.mine.items()
        if name in after and facing.replicated(name) and (pair := facing.pair(name, tensor.detach(), after[name]))
    }
    others = facing.groups.over_tp(mine)
    return {
        name: max(float((other[name] - first).norm()) for other in others if name in other)
        / (float((after[name] - start[name]).norm()) or 1.0)
        for name, first in others[0].items()
    }


def _adamw(proof: Proof, start: Grads, shake: float, seed: int) -> Grads:
    """The whole model's parameters after the scenario's steps; `shake` disturbs gradients by their noise floor. The
    model is left as it was."""
    training = Training([], [], None, lambda step: None, lambda model: None)
    own = {name: tensor for name, tensor in parameters(proof.whole).items() if tensor.requires_grad}
    unique = list({id(tensor): tensor for tensor in own.values()}.values())
    optimizer = torch.optim.AdamW(unique, lr=training.lr, betas=(0.9, 0.95), eps=training.eps, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    for step in range(max(1, proof.scenario.steps)):
        feed = proof.feed(step)
        forget(proof.whole)
        run(proof.driver, proof.whole, list(feed.values()), tokens(list(feed.values())))
        grads = gradients(proof.whole)
        if proof.clip() is not None:
            nn.utils.clip_grad_norm_(unique, float(proof.clip() or 0.0))
        if shake:
            for name, grad in grads.items():
                noise = torch.randn(grad.shape, generator=generator, dtype=torch.float64)
                size = proof.reference.floors.get(name, 0.0) * float(grad.norm()) / grad.numel() ** 0.5
                grad.add_((noise * size * shake).to(grad.dtype))
        optimizer.step()
    forget(proof.whole)
    after = {name: tensor.detach().clone() for name, tensor in own.items()}
    with torch.no_grad():
        for name, tensor in parameters(proof.whole).items():
            tensor.copy_(start[name])
    return after


def saved(proof: Proof, loop: Round) -> tuple[list[ParameterProof], list[Diagnosis]]:
    """What the framework saved, loaded unsharded, against the parameters that it trained; and loaded sharded again."""
    facing, driver = loop.facing, proof.driver
    assert facing is not None
    with proof.during("save"):
        folder = driver.save(facing.model, Path(proof.request.folder) / "saved")
        proof.mutation.on_saved(folder)
        dist.barrier()
    with proof.during("load whole"):
        whole = {name: tensor.detach() for name, tensor in parameters(driver.whole(folder)).items()}
    errors: dict[str, float] = {}
    for name, tensor in facing.mine.items():
        kept = whole.get(name)
        pair = None if kept is None else facing.pair(name, tensor.detach(), kept)
        errors[name] = float("inf") if pair is None else _distance(pair[0], pair[1])
    with proof.during("load sharded"):
        loaded = driver.sharded(folder)
        again = Facing(proof.work, proof.groups, driver.whole(folder), loaded, driver.held(loaded))
        back = again.values()
    everyone = everywhere((errors, back))
    tolerance = MULTIPLE * torch.finfo(torch.float64).eps
    rows = []
    for name in proof.reference.identity:
        found = [max(one[0].get(name, 0.0), one[1].get(name, 0.0)) for one in everyone]
        rows.append(ParameterProof(name, max(found), tolerance, True, "saved"))
    wrong = [row.name for row in rows if not row.equal]
    if not wrong:
        return rows, []
    back = sorted(name for name, error in again.values().items() if error)
    patterns = ", ".join(sorted({wildcard(name) for name in wrong})[:6])
    words = f"what was saved of {patterns} is not what was trained"
    if back:
        words += "; loaded sharded again it is different once more"
    return rows, [
        Diagnosis(
            Cause.STATE_DICT, patterns, wrong, "", words, assembled(facing, wrong),
            mend="gather each parameter over tp by its own layout before it is written",
        )
    ]  # fmt: skip


def assembled(facing: Facing, names: list[str]) -> bool:
    """True if the ranks' parts of these parameters, put together along the dimension in which they are shorter, are
    whole tensors of which every rank holds the part that its layout says: a right file could have been written. False
    where replicas differ or the layout is in blocks."""
    right = True
    for name in names:
        tensor = facing.mine.get(name)
        if tensor is None:
            right = False
            continue
        parts = facing.groups.over_tp(slices.gathered(tensor.detach()))
        shape = facing.whole[name].shape
        cut = [dim for dim in range(len(shape)) if parts[0].shape[dim] != shape[dim]]
        together = torch.cat(parts, cut[0]) if cut else parts[0]
        pair = facing.pair(name, tensor.detach(), together) if together.shape == shape else None
        right = right and pair is not None and torch.equal(pair[0], pair[1].to(pair[0].dtype))
    return all(everywhere(right))


def _distance(mine: torch.Tensor, wanted: torch.Tensor) -> float:
    norm = float(wanted.to(torch.float64).norm()) or 1.0
    return float((mine.to(torch.float64) - wanted.to(torch.float64)).norm()) / norm


def same_data(proof: Proof) -> None:
    """Which samples the framework's loader gives to each rank: the same to tp peers, others to data-parallel ones."""
    answer = proof.answer
    with proof.during("data"):
        batches = proof.mutation.on_samples(proof.driver.peers(SAMPLES))
    everyone = everywhere((proof.work.dp_rank, batches))
    by_rank: dict[int, list[list[list[int]]]] = {}
    for dp_rank, found in everyone:
        by_rank.setdefault(dp_rank, []).append(found)
    answer.depth = proof.driver.depth
    answer.measured["samples"] = {str(rank): found[0] for rank, found in by_rank.items()}
    unlike = sorted(rank for rank, found in by_rank.items() if any(one != found[0] for one in found))
    flat = {rank: [index for batch in found[0] for index in batch] for rank, found in by_rank.items()}
    shared = sorted(set.intersection(*(set(indices) for indices in flat.values()))) if len(flat) > 1 else []
    if not all(flat.values()):
        raise Refused(Status.UNSUPPORTED, Failure("NoData", "the loader yields no sample on some rank", "data"))
    answer.verdict = Verdict.EQUAL
    words = []
    if unlike:
        words.append(f"the tp peers of data rank {', '.join(map(str, unlike))} are given different samples")
    if shared:
        words.append(f"{len(shared)} of {SAMPLES} samples are given to every data rank")
    if words:
        answer.verdict = Verdict.DIFFERENT
        answer.diagnosis.append(
            Diagnosis(
                Cause.DATA, "the data loader", [], "", "; ".join(words), False,
                mend="give the sampler the rank and size of the data-parallel axis, not of the world",
            )
        )  # fmt: skip
    answer.sentence = "; ".join(words) or "tp peers are given the same samples" + (
        ", data ranks different ones" if len(flat) > 1 else ""
    )
