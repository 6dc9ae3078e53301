"""The plan in the formats of other engines. What a format cannot say is refused with the reason.

Those formats speak of modules, one style each, and gather or reduce at every module's border. A region of ours comes
over if each of its weights is that of a Linear cut the plain way and nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tpscope.errors import UserError
from tpscope.language.sharding import Region, RegionKind, Sharding, Share
from tpscope.plan import files
from tpscope.plan.result import PlanCase

FORMATS = ("tpscope", "nemo", "transformers", "torch")
_STYLES = {
    "transformers": {
        "colwise": "colwise", "rowwise": "rowwise", "lookup": "embedding_rowwise", "head": "colwise_gather_output",
        "sum": "replicated_with_grad_allreduce",
    },
    "torch": {
        "colwise": "ColwiseParallel()", "rowwise": "RowwiseParallel()",
        "lookup": "RowwiseParallel(input_layouts=Replicate())", "head": "ColwiseParallel(output_layouts=Replicate())",
    },
}  # fmt: skip
_STYLES["nemo"] = _STYLES["torch"]
_IMPORTS = (
    "from torch.distributed.tensor import Replicate\n"
    "from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel\n"
)


@dataclass(frozen=True)
class Written:
    """A plan in one format. `refused`: what it cannot say, by region, with the reason; those regions stay whole."""

    text: str
    refused: Mapping[str, str]


class Inexpressible(ValueError):
    """Something that a format has no words for."""


def write(case: PlanCase, form: str) -> Written:
    """The plan of a case in one of `FORMATS`. Raises UserError where the format can say nothing of it."""
    if form == "tpscope":
        return Written(files.write(case.plan), {})
    rules: dict[str, str] = {}
    refused: dict[str, str] = {}
    for region in case.plan.regions:
        try:
            rules.update(_rules(region, case.classes, form))
        except Inexpressible as reason:
            refused[region.exits[0]] = str(reason)
    if not rules:
        name, why = next(iter(refused.items()))
        raise UserError(f"--format {form} cannot say this plan: {name}: {why}; use --format tpscope")
    return Written(_text(rules, refused, form, case.plan), refused)


def _rules(region: Region, classes: Mapping[str, str], form: str) -> dict[str, str]:
    styles = _STYLES[form]
    if region.kind is not RegionKind.SUM:
        if classes.get(region.exits[0]) not in ("Linear", "Embedding"):
            raise Inexpressible(f"{classes.get(region.exits[0])} is neither Linear nor Embedding")
        return {region.exits[0]: styles[region.kind.value]}
    if region.settings:
        name, by = next(iter(region.settings.items()))
        raise Inexpressible(f"{name} has to be divided by {by} to run on a slice, which this format cannot say")
    rules: dict[str, str] = {}
    for module in dict.fromkeys(name.rpartition(".")[0] for name in region.shares):
        own = {
            name.rpartition(".")[2]: share for name, share in region.shares.items() if name.rpartition(".")[0] == module
        }
        rules[module] = _style(module, own, classes.get(module, ""), styles)
    return rules


def _style(module: str, shares: Mapping[str, Share], kind: str, styles: Mapping[str, str]) -> str:
    weight = shares.get("weight")
    if weight is None or set(shares) - {"weight", "bias"}:
        raise Inexpressible(f"{module} ({kind}) has weights of its own that are no weight of a Linear")
    if weight.cut is None:
        if kind == "Linear" or not weight.summed:
            raise Inexpressible(f"{module} is whole inside a region that is cut, and this format has no edge for that")
        if "sum" not in styles:
            raise Inexpressible(
                f"the gradient of {module}.weight has to be summed over the ranks, and no style does that"
            )
        return styles["sum"]
    if kind != "Linear":
        raise Inexpressible(f"{module} is a {kind}; the styles that cut a weight are for Linear")
    if weight.cut.overlaps:
        raise Inexpressible(f"several ranks hold the same slices of {module}.weight")
    if len(weight.cut.segments) > 1:
        lengths = ", ".join(str(segment.length) for segment in weight.cut.segments)
        raise Inexpressible(f"{module}.weight is fused: its rows fall into segments of {lengths}, each cut on its own")
    return styles["colwise"] if weight.cut.dim == 0 else styles["rowwise"]


def _text(rules: Mapping[str, str], refused: Mapping[str, str], form: str, plan: Sharding) -> str:
    head = [f"# Derived by tpscope for {plan.architecture} at tp {plan.tp} and proven in tpscope's own engine;"]
    head += ["# not yet run through the framework that this file is for."]
    head += [f"# left whole: {name}: {why}" for name, why in refused.items()]
    if form == "transformers":
        rows = [f'    "{name}": "{style}",' for name, style in rules.items()]
        return "\n".join([*head, "TP_PLAN = {", *rows, "}", ""])
    rows = [f'    "{name}": {style},' for name, style in rules.items()]
    return "\n".join([*head, _IMPORTS, "", "PLAN = {", *rows, "}", ""])
