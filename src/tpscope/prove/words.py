"""One sentence about a case, where the framework's side has none of its own."""

from __future__ import annotations

from tpscope.language.plan import wildcard
from tpscope.language.proof import ParameterProof, ProofAnswer
from tpscope.language.verdict import Verdict

EXACT = 1e-12


def sentence(case: ProofAnswer) -> str:
    """What was found, in one sentence without names of parameters of every layer."""
    if case.error is not None:
        return case.error.message
    if case.verdict == Verdict.EQUAL:
        return f"{_scope(case)} equal those of the unsharded model"
    if case.verdict == Verdict.DIFFERENT:
        return f"{_scalars(case)}; {_parameters(case)}{_causes(case)}"
    return "nothing could be told from this comparison"


def _scope(case: ProofAnswer) -> str:
    kinds = {"gradient": "gradients", "value": "loaded values", "stepped": "stepped values", "saved": "saved values"}
    counts = [
        f"{sum(row.compared == kind for row in case.parameters)} {name}"
        for kind, name in kinds.items()
        if any(row.compared == kind for row in case.parameters)
    ]
    return ", ".join(["loss, logits", *counts][:-1]) + (f" and {counts[-1]}" if counts else "")


def off(error: float | None, tolerance: float | None) -> bool:
    """True if an error was measured that is over its tolerance."""
    return error is not None and tolerance is not None and error > tolerance


def _scalars(case: ProofAnswer) -> str:
    if off(case.loss_error, case.loss_tolerance):
        return f"the loss is {case.loss_error:.2g} off"
    if off(case.forward_error, case.forward_tolerance):
        return f"the logits are {case.forward_error:.2g} off"
    if case.loss_error is None:
        return "the loss was not compared"
    return "the loss is exact" if case.loss_error < EXACT else "the loss is within its noise"


def _parameters(case: ProofAnswer) -> str:
    wrong = [row for row in case.parameters if not row.equal]
    if not wrong:
        return "every parameter is equal"
    worst = max(wrong, key=_badness)
    kinds = "/".join(dict.fromkeys(row.compared for row in wrong))
    said = f"{len(wrong)} of {len(case.parameters)} parameters differ ({kinds}), worst {wildcard(worst.name)}"
    if worst.error is not None:
        said += f" by {worst.error:.3g}"
    apart = any(not row.ranks_agree for row in wrong)
    return said + ("; the ranks disagree" if apart else "; the ranks agree")


def _badness(row: ParameterProof) -> float:
    return float("inf") if row.error is None else row.error


def _causes(case: ProofAnswer) -> str:
    named = [found.cause.value + (", repaired" if found.repaired else "") for found in case.diagnosis]
    return f": {'; '.join(dict.fromkeys(named))}" if named else ""
