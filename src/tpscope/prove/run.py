"""Prove a matrix of cases: models x scenarios x tp sizes x frameworks, each on real ranks, answers kept by content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tpscope.errors import NoFramework, UserError
from tpscope.frameworks import runner
from tpscope.frameworks.pins import declared_ranges, outside_pins
from tpscope.frameworks.registry import OWN, Target
from tpscope.frameworks.runner import Environment
from tpscope.frameworks.targets import environment
from tpscope.frameworks.world import MOST_RANKS, WorldClosed, Worlds
from tpscope.language.answer import to_json
from tpscope.language.proof import ProofAnswer, ProofRequest, Scenario
from tpscope.models.spec import ModelSpec
from tpscope.plan import files
from tpscope.prove import own_plan, seeds, words
from tpscope.prove.control import controlled
from tpscope.prove.derived import proven
from tpscope.prove.result import BAD, Proofs
from tpscope.prove.small import Small, small

SECONDS = 120.0


@dataclass(frozen=True)
class Case:
    """One question: does this framework train this model, in this way, at this tp size, as if unsharded?

    `mutation`: the fault that the self-test puts into it.
    """

    model: ModelSpec
    small: Small
    target: Target
    scenario: Scenario
    tp: int
    mutation: str = ""

    @property
    def name(self) -> str:
        """How a user reads it."""
        fault = f" {self.mutation}" if self.mutation else ""
        return f"{self.target.id} {self.model.name} {self.scenario.name} tp={self.tp}{fault}"


Say = Callable[[str, str], None]
Watch = Callable[[Case, ProofAnswer | None], None]
"""Told of every case: when it starts (None) and when it has an answer."""


@dataclass(frozen=True)
class Options:
    """What holds for all cases. `seconds`: how long one may take. `parallel`: frameworks that run at the same time."""

    custom_plan: str | None = None
    fresh: bool = False
    seconds: float = SECONDS
    parallel: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


def matrix(
    models: Sequence[ModelSpec], targets: Sequence[Target], scenarios: Sequence[Scenario], tps: Sequence[int]
) -> list[Case]:
    """All cases, frameworks side by side. Raises UserError for a model that cannot be shrunk or a tp size below 2."""
    for tp in tps:
        if tp < 2:
            raise UserError(f"--tp {tp}: a proof lays a sharded model beside the unsharded one; tp is 2 or more")
    return [
        Case(model, small(model, scenario), target, scenario, tp)
        for model in models
        for scenario in scenarios
        for tp in tps
        for target in targets
    ]


def prove(
    models: Sequence[ModelSpec],
    targets: Sequence[Target],
    scenarios: Sequence[Scenario],
    tps: Sequence[int],
    options: Options | None = None,
    say: Say = lambda kind, text: None,
    watch: Watch = lambda case, answer: None,
    worlds: Worlds | None = None,
) -> Proofs:
    """Prove a whole matrix. `worlds` are used and left open, else worlds of its own are closed at the end."""
    return run(matrix(models, targets, scenarios, tps), options, say, watch, worlds)


def run(
    cases: Sequence[Case],
    options: Options | None = None,
    say: Say = lambda kind, text: None,
    watch: Watch = lambda case, answer: None,
    worlds: Worlds | None = None,
) -> Proofs:
    """Answer every case, in order. Ctrl-C keeps what is finished. Raises NoFramework if none could be imported."""
    options = options or Options()
    environments: dict[str, Environment] = {}
    for case in cases:
        # One after the other, so that downloads do not compete.
        if case.target.id not in environments:
            environments[case.target.id] = environment(case.target, lambda text: say("install", text))
    answers: dict[int, ProofAnswer] = {}
    own = worlds or Worlds()
    interrupted = False
    executor = ThreadPoolExecutor(max(1, options.parallel))
    try:
        futures = [
            executor.submit(_batch, cases, identifier, environments[identifier], options, watch, own, answers)
            for identifier in environments
        ]
        _wait(futures)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if interrupted or worlds is None:
            own.close()
        executor.shutdown(wait=True, cancel_futures=True)
    found = [answers[index] for index in sorted(answers)]
    if found and all(answer.error is not None and answer.error.kind == "ImportError" for answer in found):
        told = "; ".join(dict.fromkeys(f"{answer.framework}: {answer.sentence}" for answer in found))
        raise NoFramework(f"no framework could be run: {told}")
    unsure = {case.model.name: case.model.notes for case in cases if case.model.status == "unconfirmed"}
    notes = [f"the configuration of {name} is unconfirmed: {' '.join(said)}" for name, said in unsure.items()]
    return Proofs(found, notes, len(cases) - len(found) if interrupted else 0)


def _wait(futures: list[Future[None]]) -> None:
    for future in futures:
        future.result()


def _batch(
    cases: Sequence[Case], identifier: str, where: Environment, options: Options, watch: Watch, worlds: Worlds,
    answers: dict[int, ProofAnswer],
) -> None:  # fmt: skip
    """All cases of one framework, one after the other through its world."""
    for index, case in enumerate(cases):
        if case.target.id != identifier:
            continue
        watch(case, None)
        try:
            answers[index] = answer(case, where, options, worlds)
        except WorldClosed:
            return
        watch(case, answers[index])


def kept_at(case: Case, where: Environment, options: Options | None = None) -> Path:
    """Where the answer to a case is kept; names all that it depends on."""
    return runner.cached(_request(case, options or Options()), where)


def answer(case: Case, where: Environment, options: Options, worlds: Worlds) -> ProofAnswer:
    """One case, from the cache where the same was asked before, with what only this side knows."""
    request = _request(case, options)
    kept = kept_at(case, where, options)
    found = None if options.fresh else runner.recall_proof(kept)
    if found is None:
        found = _ask(case, request, where, worlds)
        runner.keep(kept, found)
    packages = found.environment.get("packages", {})
    found.environment["declared"] = declared_ranges(packages, where.declared)
    found.environment["outside_pin"] = outside_pins(packages, where.declared)
    found.shrunk = case.small.changed
    found.sentence = found.sentence or words.sentence(found)
    found.caveat = _caveat(found)
    return found


def _request(case: Case, options: Options) -> ProofRequest:
    remote = case.model.remote_code
    training = {**options.settings, **_own_plan(case)}
    return ProofRequest(
        framework=case.target.id, version=case.target.version, variant=case.target.variant, model=case.model.name,
        config=case.small.config, tp=case.tp, scenario=case.scenario, custom_plan=options.custom_plan,
        remote_code=str(remote.resolve()) if remote else None, training=training, seconds=options.seconds,
        mutation=case.mutation,
    )  # fmt: skip


def _own_plan(case: Case) -> dict[str, Any]:
    """What our own engine is to run: the plan of this model, or why there is none."""
    if case.target.family is not OWN or case.tp == 1:
        return {}
    config = small(case.model, replace(case.scenario, dropout=0.0)).config
    try:
        return {"plan": to_json(files.read(proven(config, case.tp, case.model.name), "the derived plan"))}
    except UserError as error:
        return {"no_plan": str(error)}


def _ask(case: Case, request: ProofRequest, where: Environment, worlds: Worlds) -> ProofAnswer:
    if request.layout.world > MOST_RANKS:
        said = f"{request.layout.world} ranks are more than the {MOST_RANKS} that run on one machine here; nothing ran"
        return ProofAnswer(case.target.id, case.model.name, case.scenario.name, case.tp, sentence=said)
    where, request, kind = own_plan.importable(case.target, where, request)
    found, own = worlds.ask(case.target, where, request, None, kind)
    if not case.mutation:
        found = controlled(request, found, lambda asked: worlds.ask(case.target, where, asked, None, kind)[0])
    # A fault that was put in on purpose does not hang on the order of a set.
    if case.mutation or not seeds.may_matter(found):
        return found
    alike = [0] * request.layout.world
    runs = [worlds.ask(case.target, where, request, alike, f"{kind}alike")]
    if not seeds.same(found, runs[0][0]):
        runs.append(worlds.ask(case.target, where, request, None, f"{kind}again"))
    return seeds.judged(found, own, runs)


def _caveat(found: ProofAnswer) -> str:
    if found.verdict not in BAD:
        return ""
    outside = [pin for pin in found.environment["outside_pin"] if pin["package"] == "torch"]
    if not outside:
        return ""
    return (
        f"ran on torch {outside[0]['version']}, outside the range that {found.framework} declares "
        f"({outside[0]['declared']}): not yet shown to be so inside it"
    )
