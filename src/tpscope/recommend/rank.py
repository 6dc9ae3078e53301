"""The ranking, and what would change it. Pure functions over candidates."""

from __future__ import annotations

from tpscope.check.layout import good_tps
from tpscope.language.verdict import Verdict
from tpscope.models.spec import ModelSpec
from tpscope.recommend.result import UNMEASURED, Candidate, Standing


def ranked(candidates: list[Candidate]) -> list[Candidate]:
    """Best first: those that are equal by the stated rule, then the others by how many ways were equal."""
    order = {id(item): index for index, item in enumerate(candidates)}

    def key(item: Candidate) -> tuple[float, ...]:
        if item.equal:
            return (0, len(item.left_out), -(item.sharded_fraction or 0.0), len(item.costs), order[id(item)])
        return (1, -equal_ways(item), not item.cases, order[id(item)])

    return sorted(candidates, key=key)


def equal_ways(candidate: Candidate) -> int:
    """How many ways of training were proved equal."""
    return sum(case.verdict is Verdict.EQUAL for case in candidate.cases)


def words(candidate: Candidate, winner: Candidate | None) -> str:
    """Why an equal candidate stands where it stands."""
    said = [f"equal in all {len(candidate.ways)} ways: {', '.join(candidate.ways)}"]
    if candidate.left_out:
        said += [f"without {name}: {why}" for name, why in candidate.left_out.items()]
    if candidate.sharded_fraction is not None:
        said.append(f"{fraction(candidate.sharded_fraction)} of the parameters are sharded over tp")
    if winner is not None and winner is not candidate:
        said.append(f"behind {winner.framework}: {_behind(candidate, winner)}")
    return "; ".join(said)


def _behind(candidate: Candidate, winner: Candidate) -> str:
    if len(candidate.left_out) != len(winner.left_out):
        return "more settings are left out"
    if candidate.sharded_fraction != winner.sharded_fraction:
        return f"that shards {fraction(winner.sharded_fraction or 0.0)}"
    if len(candidate.costs) != len(winner.costs):
        return "compare sees more extra costs"
    return "equal in all that is known; it was named later"


def fraction(value: float) -> str:
    """A part of the parameters, as the pages of compare spell it."""
    return ">99.9%" if 0.999 < value < 1 else f"{value:.1%}"


def changes(candidates: list[Candidate], spec: ModelSpec, world: int) -> list[str]:
    """What would change the answer: facts that are missing, and what would let others in or put the winner out."""
    winner = next((item for item in candidates if item.standing is Standing.RECOMMENDED), None)
    found = []
    if winner is not None:
        sizes = [str(tp) for tp in good_tps(spec, world) if tp > winner.layout["tp"]]
        larger = f"; if it does not fit, a larger tp is open: {', '.join(sizes)} (--tp)" if sizes else ""
        found.append(f"memory and time are {UNMEASURED}{larger}")
        for bug in winner.bugs:
            found.append(f"{winner.framework} meets a known bug that no proof here shows: {bug.title} (bugs/{bug.id})")
        left = list(dict.fromkeys(path for case in winner.cases for path in case.not_exercised))
        found += [f"not part of the proofs: {'; '.join(left)}"] if left else []
        for name, why in winner.left_out.items():
            found.append(f"if you need {name}: {why}")
    for item in candidates:
        if item.standing is Standing.OUT and item.mends:
            found.append(f"{item.framework} ({shown(item)}) would be tried again with: {'; or '.join(item.mends)}")
    return list(dict.fromkeys(found))


def shown(candidate: Candidate) -> str:
    """What tells a candidate from others, in a few words: `tp=2, dp_shard=4, without clip`."""
    sizes = {axis: size for axis, size in candidate.layout.items() if axis not in ("world", "sequence_parallel")}
    said = [f"{axis}={size}" for axis, size in reversed(sizes.items()) if size > 1]
    said += [f"without {name}" for name in candidate.left_out]
    return ", ".join(said) or "tp=1"
