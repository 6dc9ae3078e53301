"""What one rule of a plan does to one module, in a normal form that both frameworks' styles map to.

The activation layouts are those of the module's first input and first output, `[batch, seq, hidden]`; `Shard(1)` is
the sequence, `Shard(2)` the hidden dimension. Collectives follow from the layouts (`placement.collective`) and, where
a style issues its own, from the table below, which `tests/frameworks/test_columns.py` holds against what the installed
frameworks export.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tpscope.language.placement import PARTIAL, REPLICATE, Placement, collective, shard, strided
from tpscope.language.verdict import Reduction

SEQUENCE, HIDDEN = shard(1), shard(2)


@dataclass(frozen=True)
class Style:
    """One style: where the module's own parameters go, which layout it wants and gives, and what it communicates."""

    name: str
    kind: str
    parameters: Mapping[str, Placement] = field(default_factory=dict)
    input: Placement | None = None
    output: Placement | None = None
    local_output: bool | None = None
    forward: tuple[str, ...] = ()
    backward: tuple[str, ...] = ()
    gradient: Reduction = Reduction.NONE
    known: bool = True

    def between(self, given: Placement, wanted: Placement, output: Placement, produced: Placement) -> Style:
        """The same style with other layouts: inputs come as `given` and are brought to `wanted`; the module's own
        arithmetic produces `produced`, brought to `output`. Collectives are derived from the four."""
        forward = [collective(given, wanted), collective(produced, output)]
        backward = [
            "all_gather" if produced.kind == "partial" and output.sharded else "",
            _adjoint_of_input(given, wanted),
        ]
        if self.kind in ("colwise", "packed_colwise") and given == REPLICATE:
            backward[1] = "all_reduce"
        return replace(
            self,
            input=given,
            output=output,
            forward=tuple(filter(None, forward)),
            backward=tuple(filter(None, backward)),
        )


def _adjoint_of_input(given: Placement, wanted: Placement) -> str:
    """The collective that the backward of bringing an input from `given` to `wanted` issues.

    A gathered input feeds a sharded product, so its gradient is partial and is reduced and scattered; an input that was
    sliced gets its gradient gathered. An output that was reduced or gathered needs nothing: its gradient is whole on
    every rank.
    """
    if given.sharded and wanted.kind == "replicate":
        return "reduce_scatter"
    return "all_gather" if given.kind == "replicate" and wanted.sharded else ""


_COLUMN = {"weight": shard(0), "bias": shard(0)}
_ROW = {"weight": shard(1), "bias": REPLICATE}


def colwise(name: str, given: Placement = REPLICATE, output: Placement = HIDDEN) -> Style:
    """A Linear cut along its output features (Megatron's column-parallel linear, arXiv:1909.08053)."""
    return Style(name, "colwise", _COLUMN).between(given, REPLICATE, output, HIDDEN)


def rowwise(name: str, given: Placement = HIDDEN, output: Placement = REPLICATE) -> Style:
    """A Linear cut along its input features (Megatron's row-parallel linear, arXiv:1909.08053)."""
    return Style(name, "rowwise", _ROW).between(given, HIDDEN, output, PARTIAL)


def vocab_embedding(name: str, output: Placement = REPLICATE) -> Style:
    """An embedding table cut along the vocabulary; foreign ids give zeros and the sum restores the row."""
    return Style(name, "embedding", {"weight": shard(0)}).between(REPLICATE, REPLICATE, output, PARTIAL)


def hidden_embedding(name: str, output: Placement = REPLICATE) -> Style:
    """An embedding table cut along the hidden dimension."""
    return Style(name, "embedding", {"weight": shard(1)}).between(REPLICATE, REPLICATE, output, HIDDEN)


def sequence_parallel(name: str, kind: str = "sequence_parallel", output: Placement = SEQUENCE) -> Style:
    """A norm or dropout that runs on a slice of the sequence; its replicated weight gets a partial gradient, which
    DTensor sums."""
    style = Style(name, kind, {"weight": REPLICATE, "bias": REPLICATE}, gradient=Reduction.SUM)
    return style.between(SEQUENCE, SEQUENCE, output, SEQUENCE)


def _fused_column(name: str, blocks: int = 2) -> Style:
    parameters = {"weight": strided(0, blocks), "gate_up_proj": strided(1, blocks), "bias": shard(-1)}
    return Style(name, "packed_colwise", parameters).between(REPLICATE, REPLICATE, HIDDEN, HIDDEN)


def _fused_row(name: str, blocks: int = 2) -> Style:
    return Style(name, "packed_rowwise", {"weight": strided(-1, blocks), "bias": REPLICATE})


def _experts(name: str, kind: str = "experts") -> Style:
    return Style(name, kind, {}, REPLICATE, REPLICATE, True, ("all_reduce",), ("all_reduce", "all_reduce"))


def unknown(name: str) -> Style:
    """A style that this version of tpscope has no normal form for: shown under its own name, never dropped."""
    return Style(name, "unknown", known=False)


_EXPERT_DIM = {"gate_up_proj": shard(0), "down_proj": shard(0)}

BY_NAME: dict[str, Style] = {
    style.name: style
    for style in (
        # transformers, by the strings of base_model_tp_plan
        colwise("colwise"),
        colwise("colwise_rep", output=REPLICATE),
        colwise("colwise_gather_output", output=REPLICATE),
        colwise("local_colwise"),
        rowwise("rowwise"),
        rowwise("rowwise_rep", given=REPLICATE),
        rowwise("rowwise_split_input", given=REPLICATE),
        rowwise("local_rowwise"),
        _fused_column("packed_colwise"),
        _fused_row("packed_rowwise"),
        _fused_row("local_packed_rowwise"),
        vocab_embedding("embedding_rowwise"),
        hidden_embedding("embedding_colwise"),
        sequence_parallel("sequence_parallel"),
        Style("replicate", "replicate", {"weight": REPLICATE, "bias": REPLICATE}, REPLICATE, REPLICATE),
        Style(
            "replicated_with_grad_allreduce",
            "replicate_with_gradient_sum",
            {"weight": REPLICATE, "bias": REPLICATE},
            gradient=Reduction.SUM,
        ),
        Style("mla_kv_a_proj", "mla", {"weight": REPLICATE}, REPLICATE, REPLICATE, True, (), ("all_reduce",)),
        Style("all_reduce", "all_reduce", {}, PARTIAL, REPLICATE, True, ("all_reduce",), ()),
        Style("gather", "gather", {}, REPLICATE, REPLICATE, True, ("all_reduce",), ()),
        Style("local", "isolated", {}, None, None, True),
        Style("local_params", "isolated", {}, None, None, True),
        Style("grouped_gemm", "expert_dim", _EXPERT_DIM),
        Style("ep_router", "router", {}, REPLICATE, REPLICATE, True),
        Style("megamoe_router", "router", {}, REPLICATE, REPLICATE, True),
        _experts("moe_tp_experts"),
        _experts("megamoe_experts"),
        Style(
            "ep_dispatch_experts", "experts", {}, REPLICATE, REPLICATE, True, ("all_to_all",) * 2, ("all_to_all",) * 2
        ),
        Style("moe_identity_expert", "identity_expert", {}, REPLICATE, PARTIAL, True),
        # PyTorch and NeMo AutoModel, by class name
        colwise("ColwiseParallel"),
        rowwise("RowwiseParallel"),
        colwise("ColwiseParallelLora"),
        rowwise("RowwiseParallelLora"),
        vocab_embedding("VocabParallelEmbedding"),
        sequence_parallel("SequenceParallel"),
        sequence_parallel("SequenceParallelLora"),
        sequence_parallel("SequenceParallelAllGatherActivation", kind="sequence_parallel_all_gather", output=REPLICATE),
        sequence_parallel("RotaryEmbedParallel", kind="rotary"),
        Style(
            "ReplicatedWithGradAllReduce",
            "replicate_with_gradient_sum",
            {"weight": REPLICATE, "bias": REPLICATE},
            gradient=Reduction.SUM,
        ),
        Style("PrepareModuleInput", "redistribute", {}, None, None),
        Style("PrepareModuleOutput", "redistribute", {}, None, None),
        Style("PrepareModuleInputOutput", "redistribute", {}, None, None),
    )
}


def named(name: str) -> Style:
    """The normal form of a style by the name that its framework gives it; `unknown` if there is none."""
    return BY_NAME.get(name) or unknown(name)
