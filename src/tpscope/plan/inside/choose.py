"""The plan of a model: the sources in their order, each proven, the first that is right; and what it costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from tpscope.engine.regions import held_fraction, instances
from tpscope.engine.sequence import between
from tpscope.engine.streams import whole_inside
from tpscope.errors import UserError
from tpscope.language.plan import wildcard
from tpscope.language.sharding import Region, RegionKind, Sharding
from tpscope.language.verdict import Verdict
from tpscope.plan.foreign import spelled
from tpscope.plan.inside.costs import Entries, cost, layers_of
from tpscope.plan.inside.derive import Deriver
from tpscope.plan.inside.prove import Outcome, Reference, controls, prove
from tpscope.plan.inside.spell import spell
from tpscope.plan.inside.subject import Sample
from tpscope.plan.inside.translate import Translation, translate
from tpscope.plan.result import Cost, Given, PlanCase, PlanProof, PlanRequest, Source, Tried

# A shipped plan that leaves more of the layers' weights whole is laid beside the derived one.
MOST_LEFT = 0.01


@dataclass
class Subject:
    """A small model as it is probed, and with the kernels that it takes by default; each with its reference."""

    model: nn.Module
    sample: Sample
    known: Reference
    fused: nn.Module
    again: Reference
    published: nn.Module | None = None


class Unfit(Exception):
    """A source has no plan for this model; says why."""


def choose(request: PlanRequest, subject: Subject, deriver: Deriver, tp: int) -> PlanCase:
    """The first source whose plan is proven and fits; nothing is guessed. Where none is, the last that was tried.

    A shipped plan that leaves much of the layers whole, or weights between its regions, which rules out sequence
    parallelism, or gathers inside of regions, gives way to a derived one that is proven and does better.
    """
    tried: list[Tried] = []
    cases: list[PlanCase] = []
    barely: PlanCase | None = None
    wanting = False
    for source in request.sources:
        origin = next((given.origin for given in request.given if given.source is source), "")
        try:
            plan = _proposed(request, source, subject, deriver, tp)
            case = _case(plan, subject, source)
        except Unfit as unfit:
            tried.append(Tried(source, origin, str(unfit)))
            continue
        tried.append(Tried(source, origin, _said(case)))
        cases.append(case)
        if not _good(case):
            continue
        if source is Source.SHIPPED and Source.DERIVED in request.sources:
            much, wanting = left(subject.model, plan) > MOST_LEFT, not _clear(subject.model, plan)
            if much:
                tried[-1].outcome += f", and leaves {left(subject.model, plan):.0%} of the layers' weights whole"
            elif wanting:
                tried[-1].outcome += ", and computes on gathered activations or leaves weights between regions"
            if much or wanting:
                barely = case
                continue
        break
    if not cases:
        raise Unfit("; ".join(f"{item.source}: {item.outcome}" for item in tried))
    case = cases[-1]
    if barely is not None and case is not barely:
        clear = wanting and case.fraction == barely.fraction and _clear(subject.model, case.plan)
        if not (_good(case) and (case.fraction > barely.fraction or clear)):
            case = barely
    for item in tried:
        item.taken = item.source is case.source and _good(case)
    case.tried = tried
    if request.form != "tpscope" and _good(case):
        case.spelling = spell(
            subject.model, case.plan, request.form, case.classes,
            lambda plan: prove(subject.model, plan, subject.known, subject.sample),
        )  # fmt: skip
        case.spelling.shipped = sorted(_tp_plan(subject.model) or {})
    if subject.published is not None:
        case.costs = _costs(subject, case, tp)
    if request.controls and case.proof.verdict is Verdict.EQUAL:
        broken = controls(subject.fused, case.plan, subject.again, subject.sample)
        case.proof.controls = {item.what: item.found for item in broken}
    return case


def _good(case: PlanCase) -> bool:
    return case.proof.verdict is Verdict.EQUAL and bool(case.plan.regions) and not case.misfit


def _said(case: PlanCase) -> str:
    if _good(case):
        return f"proven, cuts {case.fraction:.2%} of the parameters"
    if not case.plan.regions:
        return "nothing is cut"
    return case.misfit or case.proof.error or f"{case.proof.verdict.value}: {', '.join(list(case.proof.wrong)[:3])}"


def _proposed(request: PlanRequest, source: Source, subject: Subject, deriver: Deriver, tp: int) -> Sharding:
    """The plan of a source, before its proof. Raises Unfit where it has none."""
    if source is Source.DERIVED:
        return deriver.derive(tp)
    if source is Source.SHIPPED:
        rules = tuple(spelled(pattern, word) for pattern, word in (_tp_plan(subject.model) or {}).items())
        if not rules:
            raise Unfit("transformers ships none for this model")
        return deriver.joined(_one_entry(subject, _translated(subject, Given(source, "", rules=rules), tp)))
    given = next((item for item in request.given if item.source is source), None)
    if given is None:
        raise Unfit("there is none for this model")
    if given.plan is None:
        return _translated(subject, given, tp)
    if source is Source.CUSTOM and given.plan.tp != tp:
        raise Unfit(f"the file is for {given.plan.tp} ranks and {tp} are asked for")
    return given.plan.at(tp)


def _tp_plan(model: Any) -> dict[str, str] | None:
    return getattr(model, "tp_plan", None)


def _translated(subject: Subject, given: Given, tp: int) -> Sharding:
    found: Translation = translate(subject.model, given.rules, tp)
    problems = [item for item in found.problems if item.what != "matches nothing"]
    if given.source is Source.CUSTOM:
        problems = found.problems
    if problems:
        first = problems[0]
        named = f"{first.rule.pattern} ({first.rule.text}): " if first.rule else ""
        raise Unfit(f"{named}{first.what}, {first.why}")
    if not found.plan.regions:
        raise Unfit("none of its rules cuts anything")
    return found.plan


def _one_entry(subject: Subject, plan: Sharding) -> Sharding:
    """The plan with one entry a region, in front of the module that its columns lie in, where that is proven.

    Other engines enter at every column, so that each adds up gradients of the same input.
    """
    regions = []
    for region in plan.regions:
        home = region.exits[0].rpartition(".")[0]
        inside = region.kind is RegionKind.SUM and all(name.startswith(f"{home}.") for name in region.entries)
        joined = replace(region, entries=(home,)) if inside and len(region.entries) > 1 else region
        if joined is not region and not _right(subject, replace(plan, regions=(joined,))):
            joined = region
        regions.append(joined)
    return replace(plan, regions=tuple(regions))


def _right(subject: Subject, plan: Sharding) -> bool:
    return prove(subject.model, plan, subject.known, subject.sample).equal


def left(model: nn.Module, plan: Sharding) -> float:
    """Which part of the weights in lists of layers a plan leaves whole; 0 where there are none."""
    patterns = {name for region in plan.regions for name, share in region.shares.items() if share.cut is not None}
    sizes = {name: p.numel() for name, p in model.named_parameters() if wildcard(name) != name}
    whole = sum(size for name, size in sizes.items() if name not in patterns and wildcard(name) not in patterns)
    return whole / max(1, sum(sizes.values()))


def _clear(model: nn.Module, plan: Sharding) -> bool:
    """True if no region computes on gathered activations up to its exit, and only vectors lie between regions, so that
    ranks can share out a sequence."""
    if any(whole_inside(region) for region in plan.regions):
        return False
    try:
        between(model, instances(model, plan))
    except UserError:
        return False
    return True


def _case(plan: Sharding, subject: Subject, source: Source) -> PlanCase:
    plan, outcome = _proven(plan, subject.model, subject.known, subject.sample, source)
    if outcome.equal:
        outcome = prove(subject.fused, plan, subject.again, subject.sample)
    case = PlanCase(plan.tp, plan, proof_of(outcome), 0.0, classes=_classes(subject.model, plan), source=source)
    try:
        case.fraction = held_fraction(subject.published or subject.model, plan)
    except UserError as error:
        case.misfit = str(error)
    return case


def _costs(subject: Subject, case: PlanCase, tp: int) -> list[Cost]:
    """What the plan sends and, beside it, what the shipped one would, region for region as it is written."""
    assert subject.published is not None
    plans: list[tuple[Source, Sharding, Entries]] = [(case.source, case.plan, "shared")]
    if rules := _tp_plan(subject.model):
        shipped = translate(subject.model, [spelled(*rule) for rule in rules.items()], tp)
        if shipped.plan.regions:
            # As it is shipped: every column is an entry, and transformers' engine sends for each.
            plans.append((Source.SHIPPED, shipped.plan, "each"))
    found: list[Cost] = []
    for source, plan, entries in plans:
        try:
            found.append(cost(subject.published, plan, source, layers_of(subject.published), entries))
        except Exception as error:  # noqa: BLE001, model code that asks for numbers cannot run without them
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            found.append(Cost(source, "unknown", 0, 0, 0, 0, 0, {}, why))
    return found


def proof_of(outcome: Outcome) -> PlanProof:
    """An outcome as it stands in the answer."""
    verdict = Verdict.CRASHED if outcome.error else Verdict.EQUAL if outcome.equal else Verdict.DIFFERENT
    if outcome.equal and len(outcome.dead) > outcome.compared // 4:
        verdict = Verdict.INCONCLUSIVE  # a gradient that is no larger than noise shows nothing
    return PlanProof(
        verdict, outcome.loss_error, outcome.largest, outcome.wrong, outcome.compared, outcome.error,
        outcome.collectives, list(outcome.dead),
    )  # fmt: skip


def _classes(model: Any, plan: Sharding) -> dict[str, str]:
    wanted = {name.rpartition(".")[0] for region in plan.regions for name in region.shares}
    found = {wildcard(name): type(module).__name__ for name, module in model.named_modules()}
    return {name: found[name] for name in sorted(wanted) if name in found}


def _proven(plan: Sharding, model: Any, known: Reference, sample: Sample, source: Source) -> tuple[Sharding, Outcome]:
    """The plan, if it is proven; a derived one else without the regions that are wrong on their own, if that is."""
    outcome = prove(model, plan, known, sample)
    if outcome.equal or source is not Source.DERIVED:
        return plan, outcome
    kept: list[Region] = [
        region for region in plan.regions if prove(model, replace(plan, regions=(region,)), known, sample).equal
    ]
    less = replace(plan, regions=tuple(kept))
    less = replace(less, sharded_fraction=held_fraction(model, less))
    again = prove(model, less, known, sample)
    return (less, again) if kept and again.equal else (plan, outcome)
