"""Why a case is different: find the first divergence, try what would mend it, and keep what does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from tpscope.frameworks.inside.proof.border import Border, borders
from tpscope.frameworks.inside.proof.candidates import candidates
from tpscope.frameworks.inside.proof.facing import decided
from tpscope.frameworks.inside.proof.mends import Mend, Mends
from tpscope.frameworks.inside.proof.reference import parameters
from tpscope.frameworks.inside.proof.round import Round
from tpscope.frameworks.inside.proof.scene import Scene
from tpscope.frameworks.inside.proof.slices import gathered
from tpscope.frameworks.inside.trace import Trail
from tpscope.language.answer import TrailLine
from tpscope.language.plan import wildcard
from tpscope.language.proof import Cause, Depth, Diagnosis

if TYPE_CHECKING:
    from tpscope.frameworks.inside.proof.proof import Proof

_MOST_TURNS, _MOST_TRIES = 5, 16

_IN_BACKWARD = (Cause.ACCUMULATION, Cause.MISSING_SUM, Cause.DOUBLE_REDUCTION, Cause.MEAN_NOT_SUM)
_REDUCES = re.compile(r"all_reduce|reduce_scatter|redistribute\(|register_.*hook")

Again = Callable[[Mends, bool], Round]
"""Shard anew, mend, run; the second argument is whether modules are watched."""


class Search:
    """One diagnosis on one rank. All ranks take rank 0's decisions."""

    def __init__(self, proof: Proof, again: Again, values: dict[str, float]):
        self.proof, self.again, self.values = proof, again, values

    def run(self) -> tuple[list[tuple[Mend, list[str]]], Round, list[Border]]:
        """The mends that helped with the parameters each mended, what is left when they are in force, and the first
        scene's borders."""
        kept: list[tuple[Mend, list[str]]] = []
        mends = Mends()
        now = self.again(mends, True)
        first: list[Border] = []
        for _ in range(_MOST_TURNS):
            if not now.different and not now.forward_wrong:
                break
            scene = self.scene(now)
            first = first or scene.borders
            mend, then = self._try(scene, mends, now)
            if mend is None or then is None:
                break
            mended = sorted(set(now.different) - set(then.different))
            mends.found.append(mend)
            kept.append((mend, mended or now.different))
            now = self.again(mends, True) if then.different or then.forward_wrong else then
        return kept, now, first

    def _try(self, scene: Scene, mends: Mends, now: Round) -> tuple[Mend | None, Round | None]:
        options = decided(candidates(scene))
        for index, option in enumerate(options[:_MOST_TRIES]):
            then = self._with(mends, option, now)
            if then is None:
                continue
            near = next((other for other in options[index + 1 : index + 2] if _alike(option, other)), None)
            if then.different and near is not None:
                # The same mend at one module instead of at every layer's may leave less to be explained.
                other = self._with(mends, near, now)
                if other is not None and decided(len(other.different) < len(then.different)):
                    return near, other
            return option, then
        return None, None

    def _with(self, mends: Mends, option: Mend, now: Round) -> Round | None:
        """The round with one more mend, None if that is not better."""
        try:
            then = self.again(Mends([*mends.found, option]), False)
        except Exception as error:  # noqa: BLE001 - a mend that does not run in this model is no mend, and is told
            failed = self.proof.answer.measured.setdefault("mends_not_run", [])
            failed.append(f"{option.cause} at {', '.join(option.patterns)}: {type(error).__name__}: {error}"[:300])
            return None
        return then if decided(_better(then, now)) else None

    def scene(self, now: Round) -> Scene:
        """Everything that candidates are made of; borders on rank 0 only."""
        proof = self.proof
        reference, facing = proof.reference, now.facing
        place = next(place for place in proof.batches if place[0] == proof.work.dp_rank)
        grads = {}
        for name in now.different:
            whole = reference.total.get(name, facing.whole[name])
            if name in now.grads and (pair := facing.pair(name, now.grads[name], whole)):
                grads[name] = pair[0]
        ranks = facing.groups.over_tp(grads)
        shares = {}
        factor = proof.clip_factor(None if now.depth == Depth.PLAN else proof.clip())
        for name in now.different:
            expected = {}
            for where, part in reference.parts.items():
                if name in part and name in now.grads and (pair := facing.pair(name, now.grads[name], part[name])):
                    expected[where] = (pair[0], pair[1] * factor)
            shares[name] = expected
        found: list[Border] = []
        if now.records:
            found = self._borders(now, reference.records[place])
        return Scene(
            proof.work, now, reference, facing, ranks, shares, found, reference.records.get(place), self.values
        )

    def _borders(self, now: Round, whole: object) -> list[Border]:
        proof = self.proof
        folder = Path(proof.request.folder)
        mine = folder / f"records-{proof.work.rank}.pt"
        torch.save(now.records[0], mine)
        dist.barrier()
        found: list[Border] = []
        if proof.work.rank == 0:
            files = [folder / f"records-{rank}.pt" for rank in proof.groups.ranks]
            found = borders([torch.load(file, weights_only=False) for file in files], whole, _biases(proof.whole))
        dist.barrier()
        return found


def _alike(one: Mend, other: Mend) -> bool:
    """True if two mends do the same at other places."""
    return type(one) is type(other) and (one.cause, one.factor) == (other.cause, other.factor)


def _biases(whole: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name.removesuffix(".bias"): gathered(tensor.detach())
        for name, tensor in parameters(whole).items()
        if name.endswith(".bias")
    }


def _better(then: Round, now: Round) -> bool:
    """True if a mend made something right and nothing wrong."""
    before, after = set(now.different), set(then.different)
    if after - before:
        return False
    if now.forward_wrong and not then.forward_wrong:
        return True
    if now.forward_wrong:
        return False
    return len(after) < len(before)


def evidence(proof: Proof, again: Again, model: nn.Module, kept: list[tuple[Mend, list[str]]]) -> list[list[TrailLine]]:
    """For each cause the source lines behind it: the plan's rules, and what ran in the backward of the sharded
    model."""
    ran: list[TrailLine] = []
    if proof.driver.hooks and any(mend.cause in _IN_BACKWARD for mend, _ in kept):
        trail = proof.trail = Trail(proof.work.roots, proof.driver.hooks, limit=400)
        try:
            again(Mends(), False)
        finally:
            proof.trail = None
        ran = [line for line in trail.lines if _REDUCES.search(line.text)]
    return [
        [*proof.driver.rules(model, mend.patterns), *(ran[:3] if mend.cause in _IN_BACKWARD else [])]
        for mend, _ in kept
    ]


def described(
    kept: list[tuple[Mend, list[str]]], left: Round, first: list[Border], lines: list[list[TrailLine]]
) -> list[Diagnosis]:
    """The diagnosis of a case from what its search kept and left."""
    found = [
        Diagnosis(
            mend.cause, ", ".join(mend.patterns), names, mend.factor, mend.what, _repaired(names, left), shown,
            mend.mend,
        )
        for (mend, names), shown in zip(kept, lines, strict=True)
    ]  # fmt: skip
    if left.different or left.forward_wrong:
        found.append(_unknown(left, first))
    return found


def _repaired(names: list[str], left: Round) -> bool:
    """True if, with all mends in force, the forward is right and so is each of these parameters."""
    return not left.forward_wrong and not set(names) & set(left.different)


def _unknown(left: Round, first: list[Border]) -> Diagnosis:
    names = left.different
    place = next((border for border in first if border.gave is not None and not border.gave.right), None)
    if place is not None:
        where = wildcard(place.module)
        words = f"the first place that differs in forward order is the output of {where} ({place.kind}): {place.gave}"
    elif cut := next((border for border in first if border.lost), None):
        where = wildcard(cut.module)
        words = f"no gradient comes back to the output of {where} from {cut.into or 'what follows'}"
    else:
        patterns = sorted({wildcard(name) for name in names})
        where = ", ".join(patterns[:4])
        words = f"every activation that was seen is right; the gradients of {len(names)} parameters are not"
    return Diagnosis(Cause.UNKNOWN, where, names, "", f"no mend that was tried makes it equal: {words}", False)
