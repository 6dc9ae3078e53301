"""Parent side of `tpscope plan --check`: a plan file to rules with their lines, the reviewing process, its findings."""

from __future__ import annotations

import time
from collections.abc import Callable

from tpscope.errors import UserError
from tpscope.models.read import read
from tpscope.models.shrink import shrink
from tpscope.plan import foreign
from tpscope.plan.foreign import Written
from tpscope.plan.result import Finding, PlanRequest, Review
from tpscope.plan.run import EXPERTS, one, versions


def review(file: str, model: str, tp: int, say: Callable[[str, str], None], trusted: bool = False) -> Review:
    """What is wrong or wasted in a plan file for a model. Raises UserError for a file or an INPUT that is none."""
    begun = time.monotonic()
    written = foreign.read(file)
    spec, intent = read(model, trusted)
    if spec.remote_code is not None:
        raise UserError(f"{spec.name} brings its own model code; --check reviews plans for classes of transformers")
    small = shrink(spec.config, experts=EXPERTS)
    request = PlanRequest((tp,), small.config, given=(written.given,), review=True, form=written.form)
    answer = one(request, f"review {file}", say)
    located(answer.findings, written)
    proof = answer.cases[0].proof if answer.cases else None
    found = Review(str(written.path), spec.name, tp, answer.architecture, answer.findings, proof, answer.error)
    found.environment = versions()
    found.notes = list(spec.notes) + list(intent.notes)
    found.command = f"tpscope plan --check {file} --model {model} --tp {tp}"
    found.seconds = round(time.monotonic() - begun, 1)
    return found


def located(findings: list[Finding], written: Written) -> None:
    """Give every finding the line of its rule, of its module, or the first."""
    for item in findings:
        owner = item.pattern.rpartition(".")[0]
        item.line = item.line or written.lines.get(item.pattern) or written.lines.get(owner) or 1
