"""The faults that the self-test puts into right plans: what each breaks, where it shows, and which cause names it."""

from __future__ import annotations

from dataclasses import dataclass

from tpscope.language.proof import Cause

CARRIER = "transformers@5.23.0"

SMALL = ("llama-3.1-8b", "phi-2")
FULL = (
    "llama-3.1-8b", "qwen3-8b", "qwen2.5-7b", "gemma-2-9b", "phi-2", "mistral-7b", "granite-3-8b", "phi-3-mini",
)  # fmt: skip

# Where the carrier is wrong by itself, as `tpscope prove` says of it and bugs/ records: nothing is proven right there
# that could be broken.
WRONG_ITSELF = {
    ("qwen3-8b", "accumulate"): "the carrier itself counts earlier micro-batches again in q_norm and k_norm",
}
# Where a fault changes no number that training sees, so that there is nothing to be found.
_UNDONE = "a norm stands right behind the row-parallel layers and undoes any factor"
HARMLESS = {
    ("gemma-2-9b", kind): _UNDONE for kind in ("output-summed-twice", "output-averaged", "output-scaled")
}  # fmt: skip
# Where the carrier is wrong by itself in every model, and is mended before it is broken: so is the control.
MENDED = {"dropout": "masks-right"}


@dataclass(frozen=True)
class Fault:
    """One kind of mutation. `kind` is the name under which `inside/proof` knows it. A diagnosis that gives `cause`, and
    no other, names it. `repairable`: whether a mend on the ranks can show the cause. `small`: is in the small form."""

    kind: str
    cause: Cause
    does: str
    scenario: str = "plain"
    repairable: bool = True
    small: bool = False


FAULTS: tuple[Fault, ...] = (
    Fault("forward-sum-dropped", Cause.MISSING_SUM, "a row-parallel layer gives its partial product", small=True),
    Fault("output-summed-twice", Cause.DOUBLE_REDUCTION, "the output of a row-parallel layer is summed twice"),
    Fault("output-averaged", Cause.MEAN_NOT_SUM, "the output of a row-parallel layer is averaged over tp"),
    Fault("output-scaled", Cause.SCALED, "the output of a row-parallel layer is 0.7 times what it should be"),
    Fault("bias-repeated", Cause.BIAS_REPEATED, "every rank adds the bias of a row-parallel layer", small=True),
    Fault("rows-of-another-rank", Cause.WRONG_SLICE, "a column-parallel weight holds the next rank's rows", small=True),
    Fault("columns-of-another-rank", Cause.WRONG_SLICE, "a row-parallel weight holds the next rank's columns"),
    Fault("rows-rolled", Cause.WRONG_SLICE, "the rows of a column-parallel weight are one place off"),
    Fault("blocks-mixed", Cause.WRONG_SLICE, "a fused weight is cut across its blocks, or the reverse"),
    Fault(
        "not-sharded", Cause.NOT_SHARDED, "every rank holds a whole feed-forward block that the plan cuts",
        small=True, repairable=False,
    ),
    Fault("backward-sum-dropped", Cause.MISSING_SUM, "a column-parallel layer sends back a partial sum", small=True),
    Fault("input-gradient-twice", Cause.DOUBLE_REDUCTION, "what a column-parallel layer sends back is summed twice"),
    Fault("input-gradient-averaged", Cause.MEAN_NOT_SUM, "what a column-parallel layer sends back is averaged over tp"),
    Fault("input-gradient-scaled", Cause.SCALED, "what a column-parallel layer sends back is 0.7 of it"),
    Fault("gradient-sum-dropped", Cause.MISSING_SUM, "each rank keeps its own part of a norm's gradient", small=True),
    Fault("gradient-summed-twice", Cause.DOUBLE_REDUCTION, "a norm's gradient is summed over tp once more"),
    Fault("gradient-averaged", Cause.MEAN_NOT_SUM, "a norm's gradient is averaged over tp"),
    Fault("gradients-scaled", Cause.SCALED, "all gradients are 0.7 of what they should be", small=True),
    Fault("frozen", Cause.TRAINABILITY, "a norm does not train", small=True),
    Fault("accumulated-again", Cause.ACCUMULATION, "a norm's gradient counts micro-batches again", "accumulate"),
    Fault("untied", Cause.UNTIED, "the output head becomes a parameter of its own", "tied"),
    Fault("wrong-norm", Cause.CLIP_NORM, "clipping goes by a norm that is 1.3 times the true one", "clip"),
    Fault("drifted", Cause.DRIFT, "the ranks' copies of a norm part after a step", "step"),
    Fault("other-samples", Cause.DATA, "tp peers are given different samples", "data", repairable=False),
    Fault("saved-wrong", Cause.STATE_DICT, "a saved weight has its rows one place off", "resume"),
    Fault("masks-apart", Cause.RNG, "dropout on whole activations draws other masks on each rank", "dropout"),
    Fault("masks-alike", Cause.RNG, "dropout on sharded activations draws the same mask on every rank", "dropout"),
)  # fmt: skip
