"""Derives a tensor-parallel plan by experiments on a small model of the same structure, and proves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from tpscope.plan.result import PlanCase


def derive(module: nn.Module, sample: Any, tp: int = 2) -> PlanCase:
    """The plan of your own module at `tp` ranks, with its proof: `.plan` is what `tpscope.parallelize` takes.

    `sample` is what the module is called with: a tensor, a tuple of arguments or a mapping of named ones. The module
    is copied; the copy gets random float64 weights. Raises UserError where nothing was proven, and says why.
    """
    from tpscope.errors import UserError
    from tpscope.language.verdict import Verdict
    from tpscope.plan.inside.answer import subject_of
    from tpscope.plan.inside.choose import choose
    from tpscope.plan.result import PlanRequest

    subject, deriver = subject_of(module, sample)
    case = choose(PlanRequest((tp,)), subject, deriver, tp)
    if case.proof.verdict is not Verdict.EQUAL or not case.plan.regions:
        why = "; ".join(item.outcome for item in case.tried)
        raise UserError(
            f"{type(module).__name__} has no plan at tp {tp}: {why}; see plan.whole for what stands in the way"
        )
    return case
