"""The unsharded control of a training loop: where a loop counts micro-batches otherwise than the reference does, the
same loop at tp 1 says whether that is its definition of the loss or a fault of the sharding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tpscope.language.proof import ProofAnswer, ProofRequest
from tpscope.language.verdict import Verdict

Ask = Callable[[ProofRequest], ProofAnswer]


def controlled(request: ProofRequest, found: ProofAnswer, ask: Ask) -> ProofAnswer:
    """The answer against the loss as the framework's own loop defines it. Asks again only where every gradient counts
    the micro-batches with the same weights, and these are not one."""
    if found.verdict != Verdict.DIFFERENT or not found.measured.get("weights"):
        return found
    scenario = request.scenario
    alone = replace(
        scenario, sequence_parallel=False, dp_shard=1, cp=1, pp=1, steps=0, resume=False
    )  # fmt: skip
    control = ask(replace(request, tp=1, scenario=alone))
    if control.verdict == Verdict.EQUAL:
        found.measured["control"] = "the same loop at tp 1 gives the reference's gradients"
        return found
    weights = control.measured.get("weights")
    if control.verdict != Verdict.DIFFERENT or not weights:
        found.measured["control"] = f"the same loop at tp 1: {control.verdict}: {control.sentence}"
        return found
    if scenario.dp_shard > 1 and len({round(weight, 6) for weight in weights}) > 1:
        found.measured["control"] = (
            "the same loop at tp 1 weighs micro-batches by their labels: no control for data ranks"
        )
        return found
    weights = weights * scenario.dp_shard
    again = ask(replace(request, training={**request.training, "weights": weights}))
    listed = ", ".join(f"{weight:.4g}" for weight in weights)
    again.measured["control"] = (
        f"the same loop at tp 1 counts the micro-batches {listed} times: that is its definition of the loss, and the "
        "reference is defined so too"
    )
    return again
