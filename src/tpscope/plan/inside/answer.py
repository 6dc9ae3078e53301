"""One request answered: build the small model, derive, prove, break on purpose, look at the published sizes."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import torch

from tpscope.engine.parallelize import held_fraction
from tpscope.errors import UserError
from tpscope.language.plan import wildcard
from tpscope.language.sharding import Region, Sharding
from tpscope.language.verdict import Verdict
from tpscope.models.shrink import shrink
from tpscope.plan.inside.derive import Deriver
from tpscope.plan.inside.prove import Outcome, Reference, controls, prove, reference
from tpscope.plan.inside.subject import build, on_meta, tokens
from tpscope.plan.result import PlanAnswer, PlanCase, PlanProof, PlanRequest

EXPERTS = 4


def answer(request: PlanRequest) -> PlanAnswer:
    """Derive and prove. What the model's code raises is in the answer."""
    begun = time.monotonic()
    found = PlanAnswer(request.model_type)
    step = "config"
    try:
        config = request.config or default_config(request.model_type)
        found.model_type = str(config.get("model_type", ""))
        step = "model"
        model = build(config, "eager")
        found.architecture = type(model).__name__
        step = "forward"
        deriver = Deriver(model)
        step = "backward"
        known = reference(model, deriver.ids)
        step = "derivation"
        plans = [deriver.derive(ranks) for ranks in request.ranks]
        step = "proof"
        fused = build(config, None)
        again = reference(fused, tokens(fused))
        published = on_meta(request.published) if request.published else None
        for plan in plans:
            found.cases.append(_case(plan, [(model, known), (fused, again)], deriver.ids, request.controls, published))
    except Exception as error:  # noqa: BLE001, whatever the model's code raises is the answer
        found.error = f"{step}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    found.seconds = round(time.monotonic() - begun, 1)
    return found


def default_config(model_type: str) -> dict[str, Any]:
    """The default config of a model type, shrunk."""
    from transformers import AutoConfig

    config = json.loads(AutoConfig.for_model(model_type).to_json_string(use_diff=False))
    return shrink({**config, "model_type": model_type}, experts=EXPERTS).config


def _case(
    plan: Sharding, subjects: list[tuple[Any, Reference]], ids: torch.Tensor, broken: bool, published: Any
) -> PlanCase:
    (model, known), (fused, again) = subjects
    plan, outcome = _proven(plan, model, known, ids)
    if outcome.equal:
        outcome = prove(fused, plan, again, ids)
    verdict = Verdict.CRASHED if outcome.error else Verdict.EQUAL if outcome.equal else Verdict.DIFFERENT
    if outcome.equal and len(outcome.dead) > outcome.compared // 4:
        verdict = Verdict.INCONCLUSIVE  # a gradient that is no larger than noise shows nothing
    proof = PlanProof(
        verdict, outcome.loss_error, outcome.largest, outcome.wrong, outcome.compared, outcome.error,
        outcome.collectives, list(outcome.dead),
    )  # fmt: skip
    if broken and outcome.equal:
        proof.controls = {item.what: item.found for item in controls(fused, plan, again, ids)}
    case = PlanCase(plan.tp, plan, proof, plan.sharded_fraction, classes=_classes(model, plan))
    if published is not None:
        try:
            case.fraction = held_fraction(published, plan)
        except UserError as error:
            case.misfit = str(error)
    return case


def _classes(model: Any, plan: Sharding) -> dict[str, str]:
    wanted = {name.rpartition(".")[0] for region in plan.regions for name in region.shares}
    found = {wildcard(name): type(module).__name__ for name, module in model.named_modules()}
    return {name: found[name] for name in sorted(wanted) if name in found}


def _proven(plan: Sharding, model: Any, known: Reference, ids: torch.Tensor) -> tuple[Sharding, Outcome]:
    """The plan, if it is proven; else without the regions that are wrong on their own, if that is."""
    outcome = prove(model, plan, known, ids)
    if outcome.equal:
        return plan, outcome
    kept: list[Region] = [
        region for region in plan.regions if prove(model, replace(plan, regions=(region,)), known, ids).equal
    ]
    less = replace(plan, regions=tuple(kept))
    less = replace(less, sharded_fraction=held_fraction(model, less))
    again = prove(model, less, known, ids)
    return (less, again) if kept and again.equal else (plan, outcome)
