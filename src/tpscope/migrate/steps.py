"""Two training steps of both frameworks on one batch, from the same weights, each held against its whole model."""

from __future__ import annotations

from collections.abc import Callable

from tpscope import bugs
from tpscope.check import proofs
from tpscope.check.implied import implied
from tpscope.compare.join import canonical
from tpscope.errors import NoFramework, UserError
from tpscope.language.proof import ProofAnswer, Scenario
from tpscope.language.verdict import Verdict
from tpscope.migrate.checks import Side, fitted, intent
from tpscope.migrate.result import Check, Standing
from tpscope.models.spec import ModelSpec
from tpscope.prove import run as prove

Say = Callable[[str, str], None]
# What both can do at the same time, beside tp. Micro-batches and adapters change what is trained; the rest only how.
_TOGETHER = ("accumulate", "clip", "lora")
_CLOSE = 1e-6
NAME = "two steps on one batch"


def stepped(sides: list[Side], spec: ModelSpec, world: int, say: Say, fresh: bool = False) -> list[Check]:
    """Both sides' verdicts and the lengths of what they trained, or why there is nothing to run."""
    found = [_scenario(side, spec, world) for side in sides]
    if any(one is None for one in found):
        return [Check(NAME, Standing.UNCHECKED, "a file has no tensor parallelism, which the proof lays bare")]
    names = set.intersection(*(set(scenario.name.split("+")) for scenario, _ in filter(None, found)))
    try:
        cases = [_case(side, spec, world, names) for side in sides]
        answers = prove.run(cases, prove.Options(fresh=fresh), say, _watch(say)).cases
    except (UserError, NoFramework) as error:
        return [Check(NAME, Standing.UNCHECKED, str(error))]
    return [_beside(answers, cases[0]), *_wrong(sides, answers, spec)]


def _watch(say: Say) -> prove.Watch:
    def watch(case: prove.Case, answer: ProofAnswer | None) -> None:
        say("run" if answer is None else "done", f"{case.target.id} {case.scenario.name}")

    return watch


def _scenario(side: Side, spec: ModelSpec, world: int) -> tuple[Scenario, int] | None:
    """The scenario that a file implies, with two steps; None without tensor parallelism."""
    wanted = intent(side)
    layout = fitted(wanted, spec, world, side) if wanted is not None else None
    if wanted is None or layout is None or layout.tp < 2:
        return None
    names = [name for name in implied(wanted, spec, layout) if name in _TOGETHER]
    (*_, (scenario, tp)), _ = proofs.cases([*names, "step"], layout, wanted)
    return scenario, tp


def _case(side: Side, spec: ModelSpec, world: int, names: set[str]) -> prove.Case:
    """The case of one side: what both sides imply, with this side's own words for LoRA's targets."""
    wanted = intent(side)
    assert wanted is not None
    (*_, (scenario, tp)), _ = proofs.cases(sorted(names), fitted(wanted, spec, world, side), wanted)
    return prove.Case(spec, prove.small(spec, scenario), side.target, scenario, tp)


def _beside(answers: list[ProofAnswer], case: prove.Case) -> Check:
    """Both verdicts, and whether both held the same training against theirs."""
    before, after = (answer.verdict.value for answer in answers)
    same = all(answer.verdict is Verdict.EQUAL for answer in answers)
    words = [f"{case.scenario.name}, tp {case.tp}", *_lengths(answers)]
    if not same:
        words.append("what is wrong stands beside it")
    known = all(
        answer.verdict in (Verdict.EQUAL, Verdict.DIFFERENT, Verdict.CRASHED, Verdict.REFUSED) for answer in answers
    )
    standing = Standing.OK if same else Standing.TOLD if known else Standing.UNCHECKED
    return Check(NAME, standing, "; ".join(words), before, after)


def _lengths(answers: list[ProofAnswer]) -> list[str]:
    """How the two whole models compare: norms of gradients and of what two steps moved, by joined name."""
    left, right = (
        {(_spelt(row.name), row.compared): row.reference_norm for row in answer.parameters} for answer in answers
    )
    both = [key for key in left if key in right]
    if not both:
        return []
    unlike = [key for key in both if abs(left[key] - right[key]) > _CLOSE * max(left[key], right[key], 1e-300)]
    if unlike:
        return [f"the two whole models train {len(unlike)} of {len(both)} parameters by other lengths"]
    return [f"both whole models train {len(both)} parameters by the same lengths"]


def _spelt(name: str) -> str:
    wild = canonical(name)
    for part in name.split("."):
        wild = wild.replace("*", part, 1) if part.isdigit() else wild
    return wild


def _wrong(sides: list[Side], answers: list[ProofAnswer], spec: ModelSpec) -> list[Check]:
    """What a side that is not equal did, and the entries of the bug book that expect it."""
    found = []
    for side, answer in zip(sides, answers, strict=True):
        if answer.verdict is Verdict.EQUAL:
            continue
        sizes = {key: value for key, value in spec.config.items() if isinstance(value, int)}
        seen = bugs.Seen(
            side.target.id, answer.environment.get("packages", {}), spec.model_type, answer.scenario, answer.tp,
            answer.verdict.value, tuple(item.cause.value for item in answer.diagnosis), sizes, answer.sentence,
        )  # fmt: skip
        known = [f"bugs/{bug.id}: {bug.title}" for bug in bugs.load() if bugs.explains(bug, seen)]
        said = f"{answer.verdict.value}: {answer.sentence}" + (f". Known: {'; '.join(known)}" if known else "")
        where = [answer.error.where] if answer.error and answer.error.where else []
        bad = answer.verdict in (Verdict.DIFFERENT, Verdict.CRASHED, Verdict.REFUSED)
        standing = Standing.UNCHECKED if not bad else Standing.FAILED if side is sides[-1] else Standing.TOLD
        found.append(Check(f"two steps of {side.target.id}", standing, said, evidence=where))
    return found
