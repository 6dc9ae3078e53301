"""Which scene each of NeMo's style classes is tried in, and the plain counterparts that are tried beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleInputOutput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
)

from tpscope.frameworks.inside.experiments import style_modules as small
from tpscope.frameworks.inside.experiments.style_ports import (
    ColwiseEachModule,
    FirstDimSharded,
    ReplicatedSummed,
    SequenceParallelFrozen,
)
from tpscope.language.measured.port import Means

Styles = tuple[ParallelStyle, ...]


@dataclass(frozen=True)
class Scene:
    """A module, what each rank is given of its inputs, and how the whole output is made of the ranks' outputs.

    The style goes on the module `at`; `around` are plain styles of its neighbours, the same for every counterpart.
    """

    said: str
    module: Callable[[], nn.Module]
    inputs: Callable[[], tuple[torch.Tensor, ...]]
    given: tuple[Placement, ...]
    gives: Placement
    at: str = ""
    around: Callable[[], dict[str, ParallelStyle]] = dict


@dataclass(frozen=True)
class Counterpart:
    """What is tried in a style's place: styles of PyTorch (or ours, a patch) that are applied one after the other."""

    means: Means
    styles: Callable[[], Styles]


@dataclass(frozen=True)
class StyleCase:
    """One style class: how the framework's own plan makes it, its scene, its counterparts, the least first.

    `made` gets the module that defines the class. `after` is what the framework does after the backward pass.
    """

    scene: Scene
    made: Callable[[Any], ParallelStyle]
    tried: tuple[Counterpart, ...]
    after: Callable[[nn.Module, DeviceMesh], None] | None = None
    shims: tuple[str, ...] = ()


def _hidden() -> tuple[torch.Tensor, ...]:
    return (_random(small.BATCH, small.SEQUENCE, small.HIDDEN),)


def _words() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    return (torch.randint(0, small.WORDS, (small.BATCH, small.SEQUENCE), generator=generator),)


def _tokens_of_experts() -> tuple[torch.Tensor, ...]:
    return (_random(small.EXPERTS, small.SEQUENCE, small.HIDDEN),)


def _positions() -> tuple[torch.Tensor, ...]:
    positions = torch.arange(small.SEQUENCE).expand(small.BATCH, small.SEQUENCE).contiguous()
    return (*_hidden(), positions)


def _random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 0.7


def _nothing() -> Styles:
    return ()


def _of(means: Means, *makers: Callable[[], ParallelStyle]) -> Counterpart:
    return Counterpart(means, lambda: tuple(make() for make in makers))


_GATHERING = Scene(
    "a norm whose input is sharded over the sequence and whose output feeds a column-parallel linear",
    lambda: small.filled(small.NormFeedsLinear()), _hidden, (Shard(1),), Shard(2), "norm",
    lambda: {"up": ColwiseParallel()},
)  # fmt: skip
_ROTATING = Scene(
    "a rotary embedding that gets hidden states sharded over the sequence and whole positions",
    lambda: small.Rotary().double(), _positions, (Shard(1), Replicate()), Replicate(),
)  # fmt: skip
_HEADS = Scene(
    "a norm of each head after a column-parallel query projection, so that a rank has some of the heads",
    lambda: small.filled(small.HeadNorm()), _hidden, (Replicate(),), Shard(2), "q_norm",
    lambda: {"q_proj": ColwiseParallel()},
)  # fmt: skip
_COLUMNS = Scene(
    "a frozen linear with a LoRA adapter inside, sharded over its output",
    lambda: small.filled(small.Adapted(small.HIDDEN, 2 * small.HEAD)), _hidden, (Replicate(),), Shard(2),
)  # fmt: skip
_ROWS = Scene(
    "a frozen linear with a LoRA adapter inside, sharded over its input",
    lambda: small.filled(small.Adapted(small.HIDDEN, small.HEAD)), _hidden, (Shard(2),), Replicate(),
)  # fmt: skip
_PLAIN_ROWS = Scene(
    "a linear with a bias, sharded over its input",
    lambda: small.filled(nn.Linear(small.HIDDEN, small.HEAD)), _hidden, (Shard(2),), Replicate(),
)  # fmt: skip
_EMBEDDING = Scene(
    "an embedding whose vocabulary is sharded",
    lambda: small.filled(nn.Embedding(small.WORDS, small.HIDDEN)), _words, (Replicate(),), Replicate(),
)  # fmt: skip
_SCALED = Scene(
    "an embedding whose vocabulary is sharded and whose output is scaled by a buffer, with a padding token",
    lambda: small.filled(small.ScaledEmbedding()), _words, (Replicate(),), Replicate(),
)  # fmt: skip
_EXPERTS = Scene(
    "one weight for all experts, of which each rank holds some",
    lambda: small.filled(small.Experts()), _tokens_of_experts, (Shard(0),), Shard(0),
)  # fmt: skip


def _frozen() -> nn.Module:
    made = small.filled(small.NormFeedsLinear())
    made.norm.requires_grad_(False)
    return made


_FROZEN = Scene(
    "a frozen norm whose input is sharded over the sequence, as where only adapters train",
    _frozen, _hidden, (Shard(1),), Shard(2), "norm", lambda: {"up": ColwiseParallel(input_layouts=Shard(1))},
)  # fmt: skip


def _qk_norm(module: Any) -> ParallelStyle:
    """The class is defined inside the function that makes the plan, so it is taken out of the plan."""
    made: ParallelStyle = module._parallelize_qwen(None, sequence_parallel=True)["model.layers.*.self_attn.q_norm"]
    return made


def _synchronized(model: nn.Module, mesh: DeviceMesh) -> None:
    from nemo_automodel.components.distributed.tp_replicas import synchronize_tp_replica_gradients

    synchronize_tp_replica_gradients([model], mesh)


_GATHER = (
    SequenceParallel,
    lambda: PrepareModuleOutput(
        output_layouts=Shard(1), desired_output_layouts=Replicate(), use_local_output=False
    ),
)  # fmt: skip
_ROPE = (
    lambda: PrepareModuleInputOutput(
        input_layouts=(Shard(1), Replicate()), desired_input_layouts=(Shard(1), Replicate()), use_local_input=True,
        output_layouts=(Replicate(), Replicate()), desired_output_layouts=(Replicate(), Replicate()),
    ),
)  # fmt: skip
_HALVED = (
    lambda: PrepareModuleInput(
        input_layouts=(Shard(1), Replicate()), desired_input_layouts=(Shard(1), Shard(1)), use_local_output=True
    ),
)
_IDS_WHOLE = (lambda: RowwiseParallel(input_layouts=Replicate()),)
_WRONG_EMBEDDING = _of(Means.CONTROL, ColwiseParallel)
_NO_CUDA = "torch.cuda.synchronize does nothing: the class calls it around its all-reduce, on every machine"

CASES: dict[str, StyleCase] = {
    "SequenceParallelAllGatherActivation": StyleCase(
        _GATHERING, lambda module: module.SequenceParallelAllGatherActivation(use_local_output=False),
        (_of(Means.STYLE, SequenceParallel), _of(Means.COMBINATION, *_GATHER), Counterpart(Means.CONTROL, _nothing)),
    ),
    "RotaryEmbedParallel": StyleCase(
        _ROTATING, lambda module: module.RotaryEmbedParallel(use_local_output=True),
        (Counterpart(Means.NOTHING, _nothing), _of(Means.STYLE, *_ROPE), _of(Means.CONTROL, *_HALVED)),
    ),
    "Qwen3QKNorm": StyleCase(
        _HEADS, _qk_norm,
        (_of(Means.STYLE, SequenceParallel), _of(Means.STYLE, lambda: SequenceParallel(sequence_dim=2)),
         Counterpart(Means.CONTROL, _nothing)),
    ),
    "ColwiseParallelLora": StyleCase(
        _COLUMNS, lambda module: module.ColwiseParallelLora(),
        (_of(Means.STYLE, ColwiseParallel), _of(Means.PATCH, ColwiseEachModule), _of(Means.CONTROL, *_IDS_WHOLE)),
    ),
    "RowwiseParallelLora": StyleCase(
        _ROWS, lambda module: module.RowwiseParallelLora(),
        (_of(Means.STYLE, RowwiseParallel), _of(Means.CONTROL, lambda: RowwiseParallel(output_layouts=Shard(1)))),
    ),
    "SequenceParallelLora": StyleCase(
        _FROZEN, lambda module: module.SequenceParallelLora(use_local_output=True),
        (_of(Means.STYLE, lambda: SequenceParallel(use_local_output=True)),
         _of(Means.PATCH, lambda: SequenceParallelFrozen(use_local_output=True)),
         _of(Means.CONTROL, lambda: SequenceParallelFrozen(sequence_dim=0, use_local_output=False))),
    ),
    "ExpertParallel": StyleCase(
        _EXPERTS, lambda module: module.ExpertParallel(),
        (_of(Means.STYLE, ColwiseParallel), _of(Means.PATCH, FirstDimSharded),
         Counterpart(Means.CONTROL, _nothing)),
    ),
    "VocabParallelEmbedding": StyleCase(
        _EMBEDDING, lambda module: module.VocabParallelEmbedding(input_layouts=Replicate()),
        (_of(Means.STYLE, *_IDS_WHOLE), _WRONG_EMBEDDING),
    ),
    "ReplicatedWithGradAllReduce": StyleCase(
        _HEADS, lambda module: module.ReplicatedWithGradAllReduce(),
        (_of(Means.STYLE, lambda: SequenceParallel(sequence_dim=2, use_local_output=True)),
         _of(Means.PATCH, ReplicatedSummed), Counterpart(Means.CONTROL, _nothing)),
        _synchronized,
    ),
    "_Gemma4RowwiseParallel": StyleCase(
        _PLAIN_ROWS, lambda module: module._Gemma4RowwiseParallel([None]),
        (_of(Means.STYLE, RowwiseParallel), _of(Means.CONTROL, lambda: RowwiseParallel(output_layouts=Shard(1)))),
        shims=(_NO_CUDA,),
    ),
    "_Gemma4VocabParallelEmbedding": StyleCase(
        _SCALED, lambda module: module._Gemma4VocabParallelEmbedding(),
        (_of(Means.STYLE, *_IDS_WHOLE), _WRONG_EMBEDDING), shims=(_NO_CUDA,),
    ),
}  # fmt: skip
