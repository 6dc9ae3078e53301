"""From the phases of a proof to its verdict and diagnosis."""

from __future__ import annotations

from collections.abc import Callable

from tpscope.frameworks.inside.proof import scenarios
from tpscope.frameworks.inside.proof.diagnose import Search, described, evidence
from tpscope.frameworks.inside.proof.driver import Driver
from tpscope.frameworks.inside.proof.facing import Facing, decided
from tpscope.frameworks.inside.proof.mends import Mends
from tpscope.frameworks.inside.proof.planned import unsharded
from tpscope.frameworks.inside.proof.proof import Proof
from tpscope.frameworks.inside.proof.relations import suggestions, uniform_weights
from tpscope.frameworks.inside.proof.round import Round
from tpscope.language.plan import wildcard
from tpscope.language.proof import Cause, Depth, Diagnosis, ParameterProof, ProofAnswer, Shallower
from tpscope.language.verdict import Verdict

_NOT_HERE = (
    "NCCL: collectives ran over gloo",
    "bfloat16 and autocast: numbers are float64",
    "CUDA kernels",
)
_EAGER = "torch.compile: what the framework compiles by itself ran eagerly"


def prove(driver: Driver, answer: ProofAnswer, keep: Callable[[], None]) -> None:
    """Fill the answer of one case. Called on every rank alike. `keep` writes it as it is, before the search for a cause
    that may hang where the verdict already stands."""
    proof = Proof(driver, answer, keep)
    proof.write()
    with proof.during("check"):
        driver.check()
    proof.load_whole()
    answer.not_exercised += _NOT_HERE if proof.scenario.compile else (*_NOT_HERE, _EAGER)
    if proof.scenario.data:
        scenarios.same_data(proof)
        return
    proof.refer()
    facing = proof.shard()
    values = facing.values()
    started_different = proof.started_different
    plan = None
    at_load = driver.shards_data_at_load or proof.scenario.dp_shard == 1
    if proof.scenario.cp == 1 and proof.scenario.pp == 1 and at_load:
        plan = proof.plan_round(facing)
    # At tp 1, the control of a loop, nothing is cut.
    extra: list[Diagnosis] = unsharded(proof, facing) if proof.request.tp > 1 else []
    loop = proof.loop_round(facing, steps=max(1, proof.scenario.steps))
    proof.mutation.placed()
    if proof.scenario.dropout:
        extra += scenarios.streams(proof)
    conclude(proof, plan, loop, values)
    if answer.verdict == Verdict.DIFFERENT:
        # What comes now may hang; the diagnosis stands.
        proof.keep()
    if proof.scenario.steps:
        extra += _merge(answer, *scenarios.stepped(proof, loop))
    if proof.scenario.resume:
        extra += _merge(answer, *scenarios.saved(proof, loop))
    if started_different:
        extra.append(scenarios.started(started_different, not loop.different))
    if extra:
        answer.diagnosis += extra
        answer.verdict = Verdict.DIFFERENT
    _sentence(proof)


def conclude(proof: Proof, plan: Round | None, loop: Round, values: dict[str, float]) -> None:
    """The verdict of forward, loss and gradients, and where it is different the diagnosis."""
    answer = proof.answer
    if plan is not None:
        loop.loss_error, loop.forward_error = plan.loss_error, plan.forward_error
        loop.forward_wrong = plan.forward_wrong
    answer.depth, answer.parameters = loop.depth, loop.rows
    answer.loss_error, answer.forward_error = loop.loss_error, loop.forward_error
    answer.loss_tolerance, answer.forward_tolerance = proof.loss_tolerance, proof.forward_tolerance
    answer.ranks_agree = all(row.ranks_agree for row in loop.rows)
    if loop.norm is not None:
        answer.measured["gradient_norm"] = {"loop": loop.norm, "reference": proof.reference.norm()}
    different = bool(loop.different) or loop.forward_wrong or loop.untied or bool(loop.trains_otherwise)
    answer.verdict = Verdict.DIFFERENT if different else Verdict.EQUAL
    vacuous = [row.name for row in loop.rows if not row.reference_norm]
    if len(vacuous) == len(loop.rows):
        answer.verdict = Verdict.INCONCLUSIVE
        answer.sentence = "no parameter has a gradient in the reference: nothing was compared"
    elif vacuous:
        answer.not_exercised.append(
            f"{len(vacuous)} parameters whose gradient is zero in the reference: {vacuous[0]} ..."
        )
    if loop.different and not loop.forward_wrong:
        scene = Search(proof, lambda mends, watch: loop, values).scene(loop)
        answer.measured["weights"] = decided(uniform_weights(scene))
    if proof.request.tp == 1:
        return
    if different:
        _sentence(proof)
        proof.keep()
        answer.diagnosis = diagnosed(proof, loop, values)
    if plan is not None:
        answer.shallower.append(_shallower(proof, plan, different, values))


def _shallower(proof: Proof, plan: Round, different: bool, values: dict[str, float]) -> Shallower:
    unlike = bool(plan.different) or plan.forward_wrong
    found = Shallower(
        Depth.PLAN, Verdict.DIFFERENT if unlike else Verdict.EQUAL, "", plan.loss_error, plan.forward_error,
        plan.different,
    )  # fmt: skip
    if unlike and not different:
        # That the loop ends up equal is the confirmation: no mend need be tried.
        suggested = suggestions(Search(proof, lambda mends, watch: plan, values).scene(plan))
        patterns = ", ".join(sorted({wildcard(name) for name in plan.different})[:6])
        found.sentence = "; ".join(suggested) or f"the gradients of {patterns} differ"
        found.sentence += "; the training loop mends it"
    return found


def diagnosed(proof: Proof, wrong: Round, values: dict[str, float]) -> list[Diagnosis]:
    """Why a round is different, by mends that make it equal."""
    proof.refer(watch=True)
    at_plan = wrong.depth == Depth.PLAN

    def sharded(mends: Mends) -> Facing:
        facing = proof.shard(mends)
        facing.values(keep=facing.recuts)
        return facing

    def again(mends: Mends, watch: bool) -> Round:
        if at_plan:
            return proof.plan_round(sharded(mends), watch, mends)
        forward = proof.plan_round(sharded(mends), False, mends) if wrong.forward_wrong else None
        if forward is not None and forward.forward_wrong and not watch:
            # Gradients of a wrong forward tell nothing more: the loop is left out.
            return forward
        # A model that has run once bears the mends' hooks, which what prepares it for training may look at.
        found = proof.loop_round(sharded(mends), watch, mends)
        if forward is not None:
            found.forward_wrong, found.forward_error = forward.forward_wrong, forward.forward_error
        return found

    with proof.during("diagnosis"):
        search = Search(proof, again, values)
        kept, left, first = search.run()
        model = left.facing.model if left.facing is not None else proof.whole
        # A fault of the self-test stands in no line of the framework's.
        lines = [[] for _ in kept] if proof.request.mutation else evidence(proof, again, model, kept)
        return described(kept, left, first, lines)


def _merge(answer: ProofAnswer, rows: list[ParameterProof], found: list[Diagnosis]) -> list[Diagnosis]:
    """Put a scenario's own comparison beside the gradients': of two rows of a parameter the one that is further off."""
    kept = {row.name: row for row in answer.parameters}
    for row in rows:
        known = kept.get(row.name)
        if known is None or (known.equal and (not row.equal or _ratio(row) > _ratio(known))):
            kept[row.name] = row
    answer.parameters = list(kept.values())
    answer.ranks_agree = all(row.ranks_agree for row in answer.parameters)
    return [] if answer.verdict == Verdict.DIFFERENT else found


def _ratio(row: ParameterProof) -> float:
    return (row.error if row.error is not None else float("inf")) / row.tolerance


def _sentence(proof: Proof) -> None:
    answer = proof.answer
    if answer.verdict == Verdict.EQUAL:
        answer.sentence = (
            f"{len(answer.parameters)} parameters, logits and loss are those of the unsharded model: equal on "
            "CPU, on these paths"
        )
        return
    if answer.verdict != Verdict.DIFFERENT:
        return
    wrong = [row for row in answer.parameters if not row.equal]
    words = []
    if wrong:
        largest = max((row.error for row in wrong if row.error is not None), default=float("nan"))
        words.append(f"{len(wrong)} of {len(answer.parameters)} parameters differ, by up to {largest:.2g}")
    if answer.loss_error is not None and answer.loss_tolerance is not None:
        exact = answer.loss_error <= answer.loss_tolerance
        words.append("the loss is exact" if exact else f"the loss is {answer.loss_error:.2g} off")
    if wrong:
        apart = any(not row.ranks_agree for row in wrong)
        words.append("the ranks disagree" if apart else "the ranks agree with each other")
    if not wrong and (whole := [item for item in answer.diagnosis if item.cause == Cause.NOT_SHARDED]):
        words += ["every gradient is equal", whole[0].sentence]
    named = ", ".join(dict.fromkeys(str(item.cause) for item in answer.diagnosis if item.cause != Cause.UNKNOWN))
    answer.sentence = "; ".join(words) + (f" ({named})" if named else "")
