"""A plan written in the formats of other engines, from rules that were proven; what they cost stands above them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tpscope.errors import UserError
from tpscope.language.sharding import RegionKind, Sharding
from tpscope.plan import files
from tpscope.plan.result import Kind, PlanCase, Spelled, Spelling

FORMATS = ("tpscope", "nemo", "transformers", "torch")
# The name that the plan has in a written Python file.
NAMES = {"transformers": "TP_PLAN", "nemo": "PLAN", "torch": "PLAN"}
_COLUMN = {
    Kind.COLUMN: "ColwiseParallel()", Kind.ROW: "RowwiseParallel()",
    Kind.GATHERED: "ColwiseParallel(output_layouts=Replicate())",
    Kind.SPLIT: "RowwiseParallel(input_layouts=Replicate())",
    Kind.LOOKUP: "RowwiseParallel(input_layouts=Replicate())",
}  # fmt: skip
_WORDS: dict[str, dict[Kind, str]] = {
    "transformers": {
        Kind.COLUMN: "colwise", Kind.PACKED: "packed_colwise", Kind.ROW: "rowwise", Kind.PACKED_ROW: "packed_rowwise",
        Kind.GATHERED: "colwise_gather_output", Kind.SPLIT: "rowwise_split_input", Kind.LOOKUP: "embedding_rowwise",
        Kind.EXPERTS: "moe_tp_experts", Kind.SUM: "replicated_with_grad_allreduce", Kind.WHOLE: "local_params",
    },
    "torch": _COLUMN,
    "nemo": {**_COLUMN, Kind.SUM: "ReplicatedWithGradAllReduce()"},
}  # fmt: skip
_SHARDED_HEAD = "ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)"
_IMPORTS = {
    "torch": ("Replicate", ""),
    "nemo": (
        "Replicate, Shard",
        "from nemo_automodel.components.distributed.parallel_styles import ReplicatedWithGradAllReduce\n",
    ),
}


@dataclass(frozen=True)
class Written:
    """A plan in one format. By region: `refused` stays whole, with the reason; `dearer` costs more than in ours."""

    text: str
    refused: Mapping[str, str]
    dearer: Mapping[str, str]


def write(case: PlanCase, form: str) -> Written:
    """The plan of a case in one of `FORMATS`. Raises UserError where the format can say nothing of it."""
    if form == "tpscope":
        return Written(files.write(case.plan), {}, {})
    said = case.spelling or Spelling()
    if not said.rules:
        name, why = next(iter(said.refused.items()), (case.plan.architecture, "it was not asked for"))
        raise UserError(f"--format {form} cannot say this plan: {name}: {why}; use --format tpscope")
    return Written(_text(said, form, case.plan), said.refused, said.dearer)


def _text(said: Spelling, form: str, plan: Sharding) -> str:
    lines = [
        f"# Written by tpscope plan for {plan.architecture} at tp {plan.tp}; these rules were proven in its engine."
    ]
    lines += [f"# left whole: {name}: {why}" for name, why in said.refused.items()]
    lines += [f"# dearer: {name}: {why}" for name, why in said.dearer.items()]
    rows = {rule.pattern: _word(rule, form) for rule in said.rules}
    if form == "transformers":
        # What the model's own plan says beside is merged with these rules unless each of its keys is taken.
        rows |= {name: "replicate" for name in said.shipped if name not in rows}
        table = [f'    "{name}": "{word}",' for name, word in rows.items()]
    else:
        layouts, more = _IMPORTS[form]
        styles = "ColwiseParallel, RowwiseParallel"
        lines += [f"from torch.distributed.tensor import {layouts}"]
        lines += [f"from torch.distributed.tensor.parallel import {styles}"]
        lines += [more] if "ReplicatedWithGradAllReduce()" in rows.values() else [""]
        table = [f'    "{name}": {word},' for name, word in rows.items()]
    return "\n".join([*lines, f"{NAMES[form]} = {{", *table, "}", ""])


def _word(rule: Spelled, form: str) -> str:
    if rule.text == RegionKind.HEAD and form == "nemo":
        return _SHARDED_HEAD
    return _WORDS[form][rule.kind]
