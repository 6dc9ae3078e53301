"""Both files' training, proved on this machine: each framework against the whole model, and two steps side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tpscope import bugs
from tpscope.check import proofs
from tpscope.check.implied import implied
from tpscope.compare.join import spelt
from tpscope.errors import NoFramework, UserError
from tpscope.frameworks.world import Worlds
from tpscope.language.proof import ProofAnswer, Scenario
from tpscope.language.verdict import Verdict
from tpscope.migrate.checks import Side, fitted, intent
from tpscope.migrate.result import Check, Standing
from tpscope.models.spec import Intent, ModelSpec
from tpscope.prove import run as prove

Say = Callable[[str, str], None]
STEPS = "two steps on one batch"
BOTH = "both train the same model"
# What both can do at the same time, beside tp. Micro-batches and adapters change what is trained; the rest only how.
_TOGETHER = ("accumulate", "clip", "lora")
_BAD = (Verdict.DIFFERENT, Verdict.CRASHED, Verdict.REFUSED)
_CLOSE = 1e-6


@dataclass
class Proved:
    """One side: what it was asked, and the answers, that of the two steps last."""

    side: Side
    wanted: list[tuple[Scenario, int]]
    notes: list[str]
    answers: list[ProofAnswer] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict | None:
        """That of the combination that the file asks for; a worse one of a part of it counts."""
        return proofs.verdict(self.answers[:-1])


def proven(sides: list[Side], spec: ModelSpec, world: int, say: Say, fresh: bool = False) -> list[Check]:
    """The verdict of each side, two steps of both, and what is wrong where a side is not equal."""
    names = [_names(side, spec, world) for side in sides]
    if any(one is None for one in names):
        why = "a file has no tensor parallelism: nothing is cut that a proof would put together again"
        return [Check(BOTH, Standing.UNCHECKED, why)]
    shared = [name for name in _TOGETHER if all(one is not None and name in one for one in names)]
    try:
        found = [_wanted(side, spec, world, one or [], shared) for side, one in zip(sides, names, strict=True)]
        _run(found, spec, say, fresh)
    except (UserError, NoFramework) as error:
        return [Check(BOTH, Standing.UNCHECKED, str(error))]
    return [_verdicts(found), _two_steps(found), *(check for one in found for check in _told(one, spec, found[-1]))]


def _names(side: Side, spec: ModelSpec, world: int) -> list[str] | None:
    """The scenarios that a file implies; None without tensor parallelism."""
    wanted = intent(side)
    layout = fitted(wanted, spec, world, side) if wanted is not None else None
    if wanted is None or layout is None or layout.tp < 2:
        return None
    return list(implied(wanted, spec, layout))


def _wanted(side: Side, spec: ModelSpec, world: int, names: list[str], shared: list[str]) -> Proved:
    wanted = intent(side)
    assert wanted is not None
    layout = fitted(wanted, spec, world, side)
    mine = [name for name in names if not (name == "dropout" and _early(side, wanted))]
    asked, notes = proofs.cases(mine, layout, wanted)
    if "lora" in mine:
        # Without its adapters the file would train other parameters: that says nothing of it.
        asked = [pair for pair in asked if "lora" in pair[0].name.split("+")]
    if mine != names:
        notes.append("proved without LoRA's dropout: prove knows NeMo's default place for it alone")
    (*_, steps), _ = proofs.cases([*shared, "step"], layout, wanted)
    return Proved(side, [*asked, steps], notes)


def _early(side: Side, wanted: Intent) -> bool:
    """True where a NeMo file drops before A, which a proof does not read."""
    peft = side.data.get("peft")
    return side.kind == "nemo" and isinstance(peft, dict) and peft.get("dropout_position") == "pre"


def _run(found: list[Proved], spec: ModelSpec, say: Say, fresh: bool) -> None:
    def watch(case: prove.Case, answer: ProofAnswer | None) -> None:
        say("run" if answer is None else "done", f"{case.target.id} {case.scenario.name}")

    with Worlds() as worlds:
        for one in found:
            cases = [
                prove.Case(spec, prove.small(spec, scenario), one.side.target, scenario, tp)
                for scenario, tp in one.wanted
            ]
            one.answers = prove.run(cases, prove.Options(fresh=fresh), say, watch, worlds).cases


def _verdicts(found: list[Proved]) -> Check:
    before, after = ((one.verdict.value if one.verdict else "nothing to prove") for one in found)
    if before == after == Verdict.EQUAL:
        why = "each is equal to the whole model on the same weights and batch"
        return Check(BOTH, Standing.OK, why, before, after)
    open_ = any(one.verdict not in (*_BAD, Verdict.EQUAL) for one in found)
    return Check(BOTH, Standing.UNCHECKED if open_ else Standing.TOLD, "see what each side did", before, after)


def _two_steps(found: list[Proved]) -> Check:
    """Both verdicts, and whether both held the same training against theirs."""
    answers = [one.answers[-1] for one in found]
    scenario, tp = found[0].wanted[-1]
    before, after = (answer.verdict.value for answer in answers)
    if before == after == Verdict.EQUAL:
        return Check(STEPS, Standing.OK, f"{scenario.name}, tp {tp}{_lengths(*answers)}", before, after)
    known = all(answer.verdict in (*_BAD, Verdict.EQUAL) for answer in answers)
    standing = Standing.TOLD if known else Standing.UNCHECKED
    return Check(STEPS, standing, f"{scenario.name}, tp {tp}", before, after)


def _lengths(left: ProofAnswer, right: ProofAnswer) -> str:
    """How the two whole models compare: norms of gradients and of what two steps moved, by joined name."""
    ours, theirs = (
        {(spelt(row.name), row.compared): row.reference_norm for row in answer.parameters} for answer in (left, right)
    )
    both = [key for key in ours if key in theirs]
    unlike = [key for key in both if abs(ours[key] - theirs[key]) > _CLOSE * max(ours[key], theirs[key], 1e-300)]
    if unlike:
        return f"; the two whole models train {len(unlike)} of {len(both)} parameters by other lengths"
    return f"; both whole models train {len(both)} parameters by the same lengths" if both else ""


def _told(one: Proved, spec: ModelSpec, target: Proved) -> list[Check]:
    """One line for all verdicts of a side, and one for each way in which it is wrong, with the bugs that expect it."""
    name = f"proof of {one.side.target.id}"
    words = ", ".join(f"{answer.scenario} {answer.verdict.value}" for answer in one.answers)
    notes = f" ({'; '.join(one.notes)})" if one.notes else ""
    right = all(answer.verdict is Verdict.EQUAL for answer in one.answers)
    found = [Check(name, Standing.OK if right else Standing.TOLD, words + notes)]
    wrong: dict[str, list[ProofAnswer]] = {}
    for answer in one.answers:
        if answer.verdict is not Verdict.EQUAL:
            wrong.setdefault(f"{answer.verdict.value}: {_cause(answer)}", []).append(answer)
    everything = _known(one.side, one.answers, spec)
    for said, answers in wrong.items():
        bad = answers[0].verdict in _BAD
        standing = Standing.UNCHECKED if not bad else Standing.FAILED if one is target else Standing.TOLD
        # What is wrong in a part of a combination is wrong in it too.
        known = _known(one.side, answers, spec) or everything
        names = f" Known: {', '.join(known)}." if known and bad else ""
        where = answers[0].error.where if answers[0].error else None
        text = f"{', '.join(answer.scenario for answer in answers)} {said.rstrip('.')}.{names}"
        found.append(Check(name, standing, text, evidence=[where] if where else []))
    return found


def _cause(answer: ProofAnswer) -> str:
    named = [item.sentence for item in answer.diagnosis if item.cause != "unknown"]
    return "; ".join(named) or answer.sentence


def _known(side: Side, answers: list[ProofAnswer], spec: ModelSpec) -> list[str]:
    """Entries of the bug book that expect what was seen."""
    sizes = {key: value for key, value in spec.config.items() if isinstance(value, int)}
    found: list[str] = []
    for answer in answers:
        seen = bugs.Seen(
            side.target.id, answer.environment.get("packages", {}), spec.model_type, answer.scenario, answer.tp,
            answer.verdict.value, tuple(item.cause.value for item in answer.diagnosis), sizes, answer.sentence,
        )  # fmt: skip
        found += [f"bugs/{bug.id}" for bug in bugs.load() if bugs.explains(bug, seen)]
    return list(dict.fromkeys(found))
