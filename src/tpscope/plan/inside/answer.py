"""One request answered: build the small model, or take the user's own, and ask the sources or review a plan."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

from torch import nn

from tpscope.language.sharding import Sharding
from tpscope.models.shrink import shrink
from tpscope.plan.inside.choose import Subject, choose, proof_of
from tpscope.plan.inside.derive import Deriver
from tpscope.plan.inside.prove import reference
from tpscope.plan.inside.review import Reviewer
from tpscope.plan.inside.subject import Sample, build, on_meta, own
from tpscope.plan.result import PlanAnswer, PlanCase, PlanRequest

EXPERTS = 4


def answer(request: PlanRequest) -> PlanAnswer:
    """Ask every source, prove what it gives. What the model's code raises is in the answer."""
    begun = time.monotonic()
    found = PlanAnswer(request.model_type)
    steps = ["config"]
    try:
        subject, deriver = _subject(request, found, steps)
        steps.append("derivation")
        if request.review:
            _review(request, subject, deriver, found)
        else:
            subject.published = on_meta(request.published) if request.published else None
            for tp in request.ranks:
                found.cases.append(choose(request, subject, deriver, tp))
    except Exception as error:  # noqa: BLE001, whatever the model's code raises is the answer
        found.error = f"{steps[-1]}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    found.seconds = round(time.monotonic() - begun, 1)
    return found


def _subject(request: PlanRequest, found: PlanAnswer, steps: list[str]) -> tuple[Subject, Deriver]:
    if request.make:
        steps.append("module")
        module, sample = made(request.make)
        found.architecture = type(module).__name__
        steps.append("forward")
        return subject_of(module, sample)
    config = request.config or default_config(request.model_type)
    found.model_type = str(config.get("model_type", ""))
    steps.append("model")
    model = build(config, "eager", request.remote_code)
    found.architecture = type(model).__name__
    steps.append("forward")
    known_sample = Sample.of(model)
    deriver = Deriver(model, known_sample)
    steps.append("backward")
    known = reference(model, known_sample)
    fused = build(config, None, request.remote_code)
    return Subject(model, known_sample, known, fused, reference(fused, known_sample)), deriver


def subject_of(module: nn.Module, sample: Any) -> tuple[Subject, Deriver]:
    """A user's own module with what it is to be called with; the module is left as it is."""
    model, given = own(module), Sample.given(sample)
    deriver = Deriver(model, given)
    known = reference(model, given)
    return Subject(model, given, known, model, known), deriver


def made(text: str) -> tuple[nn.Module, Any]:
    """Module and sample that the function `path.py:name` of a user gives. Raises TypeError for anything else."""
    path, _, name = text.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"tpscope_own_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise TypeError(f"{path} is no Python file")
    code = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = code
    sys.path.insert(0, str(Path(path).parent))
    spec.loader.exec_module(code)
    found = getattr(code, name)()
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], nn.Module)):
        raise TypeError(f"{text} gives no pair of a module and a sample input; return (module, sample)")
    return found


def _review(request: PlanRequest, subject: Subject, deriver: Deriver, found: PlanAnswer) -> None:
    tp = request.ranks[0]
    reviewer = Reviewer(subject.model, subject.sample, subject.known, deriver, tp)
    outcome = reviewer.review(request.given[0], request.form)
    found.cases = [PlanCase(tp, Sharding(found.model_type, found.architecture, tp, ()), proof_of(outcome), 0.0)]
    found.findings = reviewer.findings


def default_config(model_type: str) -> dict[str, Any]:
    """The default config of a model type, shrunk."""
    from transformers import AutoConfig

    config = json.loads(AutoConfig.for_model(model_type).to_json_string(use_diff=False))
    return shrink({**config, "model_type": model_type}, experts=EXPERTS).config
