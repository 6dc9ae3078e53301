"""What a proof needs of a framework: load a checkpoint whole and sharded, compute its loss, run its training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside.proof.slices import Part
from tpscope.language.answer import LogLine, TrailLine
from tpscope.language.proof import Depth, ProofRequest

MicroBatch = dict[str, torch.Tensor]
"""`input_ids`, `labels` (not shifted, -100 where no loss is wanted) `[batch, seq]`, and under the `mask` scenario
`attention_mask` (padding) or `position_ids` (packed), of the same shape."""


@dataclass
class Work:
    """One case on one rank, as its phases share it. `checkpoint` holds the model as Hugging Face saves it."""

    request: ProofRequest
    rank: int
    checkpoint: Path
    scratch: Path
    phase: str = "start"
    shims: list[str] = field(default_factory=list)
    exercised: list[str] = field(default_factory=list)
    log: list[LogLine] = field(default_factory=list)

    @property
    def roots(self) -> list[str]:
        """Folders that hold the framework's source."""
        return self.request.roots

    @property
    def tp_rank(self) -> int:
        """This rank's place on the tp axis, which varies fastest."""
        return self.rank % self.request.tp

    @property
    def cp_rank(self) -> int:
        """This rank's place on the cp axis."""
        return self.rank // self.request.tp % self.request.scenario.cp

    @property
    def dp_rank(self) -> int:
        """This rank's place on the data axis: which samples it trains on."""
        return self.rank // (self.request.tp * self.request.scenario.cp) % self.request.scenario.dp_shard

    def shim(self, text: str) -> None:
        """List a place where we stand in for something of the launcher or the hardware."""
        if text not in self.shims:
            self.shims.append(text)


@dataclass
class Step:
    """What a training loop held just before its optimizer step. `norm` is what its clipping computed."""

    model: nn.Module
    norm: float | None = None


@dataclass(frozen=True)
class Training:
    """What a training loop is asked to do.

    `micro_batches[step][index]` are this data rank's own. `tokens[step]` is the number of labels over all data ranks
    and micro-batches of a step that the loss counts. `clip` is the largest gradient norm, None for no clipping.
    AdamW: lr, betas (0.9, 0.95), eps, weight_decay as given here, constant.

    `before_step` is called once a step, when the loop has done with the gradients all that it does (synchronized,
    scaled, clipped) and just before the optimizer's own step. `around_backward` is a context to be entered around
    every call of the loop's backward (the diagnosis mends through it).
    """

    micro_batches: list[list[MicroBatch]]
    tokens: list[int]
    clip: float | None
    before_step: Callable[[Step], None]
    around_backward: Callable[[nn.Module], Any]
    lr: float = 1e-2
    eps: float = 1e-3
    weight_decay: float = 0.01


class Driver(ABC):
    """One framework for one case. Every rank has its own, and every method is called on every rank alike.

    Whatever a framework raises goes through: the caller tells refusals from crashes. A scenario that the framework has
    no setting for is `Refused(Status.UNSUPPORTED, ...)` with evidence, raised from `check`.
    """

    depth = Depth.LOOP
    """The deepest depth that `train` reaches."""

    shards_data_at_load = True
    """False if FSDP is applied by the training loop only: then the plan depth says nothing about several data ranks."""

    hooks: tuple[str, ...] = ()
    """Parts of paths of the framework's files whose lines, where they run in a backward, say what is done to
    gradients."""

    def __init__(self, work: Work):
        self.work = work
        self.request = work.request

    def rules(self, model: nn.Module, patterns: tuple[str, ...]) -> list[TrailLine]:
        """The source lines that put rules for these modules or parameters into the plan, or that show there is none."""
        return []

    def planned(self, model: nn.Module) -> dict[str, Any]:
        """The plan as the framework holds it for a sharded model: patterns of modules and styles. Empty where there is
        none to be had."""
        return {}

    def held(self, model: nn.Module) -> dict[int, Part]:
        """Parts of parameters, by id, of an engine that cuts unevenly or keeps slices twice, and says so. They are held
        against the values; other parts are found by value."""
        return {}

    @abstractmethod
    def check(self) -> None:
        """Raise if the framework refuses this model and layout, or has no setting for this scenario. Before anything is
        loaded, by the framework's own checks where it has such."""

    @abstractmethod
    def whole(self, checkpoint: Path) -> nn.Module:
        """The unsharded model of the class that the framework picks, float64, on the CPU, loaded from `checkpoint`
        (Hugging Face format) with LoRA applied if asked for, in the order of the framework; no collective."""

    @abstractmethod
    def sharded(self, checkpoint: Path) -> nn.Module:
        """The same, sharded over this world by the framework's own loader. LoRA's matrices are as the framework
        initialises them."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: MicroBatch, tokens: int) -> tuple[torch.Tensor, Any]:
        """The framework's own default loss of one micro-batch, summed over labels and divided by `tokens`, and the
        logits as the model returned them. Works on a whole and on a sharded model."""

    @abstractmethod
    def train(self, model: nn.Module, training: Training) -> None:
        """Run the framework's training loop on a model that `sharded` made (or `whole`, where world size is one)."""

    @abstractmethod
    def save(self, model: nn.Module, folder: Path) -> Path:
        """Save as the framework saves at the end of training (adapters only under LoRA, if that is its way). Returns
        the folder that holds what a user would load."""

    @abstractmethod
    def peers(self, samples: int) -> list[list[int]]:
        """For the `data` scenario: indices of the samples, of a dataset of `samples` rows, that this rank's loader
        yields, batch by batch, through the framework's own loader and sampler."""

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Whatever must surround forward and backward of the plan depth (a context-parallel context)."""
        yield
