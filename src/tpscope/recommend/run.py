"""Recommend: try every candidate, rank them, and hand out the config of the first that `tpscope check` passes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tpscope.check import ask as checking
from tpscope.check.proofs import MOST_TP
from tpscope.check.result import Check, Severity
from tpscope.check.run import check
from tpscope.compare.run import Pool
from tpscope.errors import UserError
from tpscope.frameworks import registry
from tpscope.frameworks.registry import Target
from tpscope.frameworks.targets import resolve
from tpscope.frameworks.world import Worlds
from tpscope.language.layout import Layout
from tpscope.language.verdict import Verdict
from tpscope.prove.scenarios import parse
from tpscope.recommend import rank
from tpscope.recommend.ask import RULES, Asked, Wanted, layouts, wanted
from tpscope.recommend.config import WRITTEN, written
from tpscope.recommend.result import UNMEASURED, Candidate, Recommendation, Standing
from tpscope.recommend.trial import Say, Trials, first, write


def candidates(asked: Asked) -> list[Target]:
    """What is tried: the versions that the user names, else the newest known one of every framework."""
    if asked.with_ or asked.python:
        return resolve(list(asked.with_), asked.python)
    known = registry.families().values()
    return [Target(family, family.versions[-1]) for family in known]


def recommend(asked: Asked, say: Say = lambda kind, text: None) -> Recommendation:
    """The answer. Raises UserError for input that cannot be meant, NoFramework where nothing could be run."""
    started = time.monotonic()
    want = wanted(asked)
    tried = layouts(want, asked.world)
    targets = candidates(asked)
    if not any(target.family.name in WRITTEN for target in targets):
        raise UserError(
            f"--with {' '.join(target.id for target in targets)}: only {' and '.join(WRITTEN)} have training YAMLs to "
            "recommend; name one of them"
        )
    result = Recommendation(
        want.spec.name, want.spec.source, asked.world, _asked(asked, want), asked.hardware, list(RULES),
        notes=list(want.notes), command=asked.command,
    )  # fmt: skip
    if want.spec.status == "unconfirmed":
        result.notes.append(f"the configuration of {want.spec.name} is unconfirmed: {' '.join(want.spec.notes)}")
    if asked.own_plan:
        result.notes.append(
            "what is proved is the framework's plan; yours is another question: tpscope compare --custom-plan"
        )
    with (
        tempfile.TemporaryDirectory(prefix="tpscope-recommend-") as folder,
        Pool(say, fresh=asked.fresh) as pool,
    ):
        trials = Trials(
            want, asked.own_plan, pool, Path(folder), say, asked.fresh, asked.trust_remote_code
        )  # fmt: skip
        found = [item for target in targets if target.family.name in WRITTEN for item in trials.of(target, tried)]
        result.candidates = rank.ranked(found)
        _choose(result, asked, targets, trials)
        result.candidates += [
            _reference(target, trials, tried[0]) for target in targets if target.family.name not in WRITTEN
        ]
        if result.bad:
            _nearest(result, asked, targets, trials)
    result.changes = rank.changes(result.candidates, want.spec, asked.world)
    result.notes += [note for item in result.candidates[:1] for note in item.notes if note not in result.notes]
    result.seconds = round(time.monotonic() - started, 1)
    return result


def _asked(asked: Asked, want: Wanted) -> dict[str, object]:
    lora = {"r": want.lora.r, "alpha": want.lora.alpha, "targets": list(want.lora.targets)} if want.lora else None
    return {
        "tp": want.tp, "lora": lora, "sequence_parallel": want.sequence_parallel, "own_plan": asked.own_plan,
    }  # fmt: skip


def _choose(result: Recommendation, asked: Asked, targets: list[Target], trials: Trials) -> None:
    """The first of the ranking whose config passes `tpscope check`; those before it are out, with what was found."""
    winner = None
    for item in result.candidates:
        if not item.equal:
            continue
        if winner is not None:
            item.standing, item.reason = Standing.FIT, f"{rank.words(item, winner)}; its config was not checked"
            continue
        checked = _check(item, asked, targets, trials, prove=True)
        if problem := _problem(checked):
            item.reason = f"{rank.words(item, None)}; but tpscope check finds of its config: {problem}"
            continue
        winner, item.standing, item.reason = item, Standing.RECOMMENDED, rank.words(item, None)
        result.winner, result.config, result.check = item.framework, item.config, checked
    result.candidates.sort(key=lambda item: list(Standing).index(item.standing))


def _check(item: Candidate, asked: Asked, targets: list[Target], trials: Trials, prove: bool) -> Check:
    target = next(target for target in targets if target.id == item.framework)
    path = write(trials.folder, target, item.config)
    named = None if target.python else target.id
    question = checking.Asked(
        path, asked.world, named, target.python, prove, trust_remote_code=asked.trust_remote_code
    )  # fmt: skip
    found = check(question, trials.say)
    # The file is gone when the answer is read: it is named as the user will name it.
    for finding in found.findings:
        finding.where = finding.where.replace(str(path), path.name)
    found.config, found.command = path.name, found.command.replace(str(path), path.name)
    return found


def _problem(found: Check) -> str:
    """What stands in the way of recommending a config, "" if nothing does."""
    # Every key was written here: one that nothing reads would promise what is not done.
    loud = [item for item in found.findings if item.severity is not Severity.NOTE or item.source == "keys"]
    if loud:
        return "; ".join(f"{item.what}: {item.why}" for item in loud[:3])
    if found.layout.get("tp", 1) > 1 and found.verdict is not Verdict.EQUAL:
        return f"the proofs of the file come to {found.verdict.value if found.verdict else 'nothing'}"
    return ""


def _reference(target: Target, trials: Trials, wanted_layout: Layout) -> Candidate:
    """transformers alone: one proof of the way that was asked for, without data ranks. It has no YAML to hand out."""
    want = trials.want
    names = [*(["lora"] if want.lora else []), *(["sequence-parallel"] if want.sequence_parallel else [])]
    scenario = parse("+".join(names) or "plain")
    tp = wanted_layout.tp if wanted_layout.tp <= MOST_TP else 2
    with Worlds() as worlds:
        case = trials.proof(target, want.spec, scenario, tp, worlds)
    reason = f"{scenario.name} is {case.verdict.value}: {case.sentence}; a reference: it has no training YAML"
    return Candidate(target.id, {"tp": tp}, {}, Standing.REFERENCE, reason, ways=[scenario.name], cases=[case])


def _nearest(result: Recommendation, asked: Asked, targets: list[Target], trials: Trials) -> None:
    """Where nothing is recommended: the candidate with the most equal ways, its mends, and FSDP without tp."""
    own = [item for item in result.candidates if item.standing is Standing.OUT]
    best = max(own, key=lambda item: (rank.equal_ways(item), bool(item.cases)))
    result.nearest = f"{best.framework} ({rank.shown(best)}): {best.reason}"
    result.mends = list(best.mends)
    for framework in dict.fromkeys(item.framework for item in own):
        target = next(target for target in targets if target.id == framework)
        alone = Layout(dp_shard=asked.world)
        where = trials.place(target)
        settings, _ = first(target, where, trials.want)
        text = written(target, where, trials.want.spec, trials.want.reference, alone, settings)
        item = Candidate(framework, {}, {}, config=text)
        if not _problem(_check(item, asked, targets, trials, prove=False)):
            result.fallback = text
            result.mends.append(
                f"no tensor parallelism: {framework} with FSDP over all {asked.world} ranks passes tpscope check; "
                f"nothing is sharded over tp then, so there is nothing to prove; whether it fits is {UNMEASURED}"
            )
            return
