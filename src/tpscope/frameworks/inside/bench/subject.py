"""A model of a framework on this rank's device, ready to be stepped: what a measurement needs of a framework."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tpscope.language.sharding import Sharding

# Absence of these changes what a framework falls back to; they are named in every row, as a version or as null.
SPEAKING = (
    "torch", "transformers", "accelerate", "peft", "nemo-automodel", "axolotl", "triton", "torchao", "liger-kernel",
    "cut-cross-entropy", "flash-attn", "transformer-engine", "quack-kernels", "kernels", "nvidia-nccl-cu13",
)  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What is built: one model of one framework in one layout. Cases that differ only in sequence and loss share it."""

    config: dict[str, Any] = field(hash=False)
    tp: int = 1
    sequence_parallel: bool = False
    compiled: bool = False
    dtype: str = "bfloat16"
    plan: Sharding | None = None


class Subject(ABC):
    """One built model. `model` trains; `notes` say where we stand in for something."""

    model: nn.Module
    compile_by = ""

    def __init__(self, wanted: Wanted, device: torch.device):
        self.wanted, self.device = wanted, device
        self.dtype: torch.dtype = getattr(torch, wanted.dtype)
        self.notes: list[str] = []

    @abstractmethod
    def losses(self) -> tuple[str, ...]:
        """Names of the losses that this framework computes; the first is its default."""

    @abstractmethod
    def prepare(self, loss: str) -> None:
        """Make `loss` the one that `forward` computes. Raises what the framework raises."""

    @abstractmethod
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Forward and loss of token ids `[batch, sequence]`, every token but the first being a label."""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """The framework's default AdamW over the parameters, by its own builder, with a learning rate of zero."""

    def backward(self, loss: torch.Tensor) -> None:
        """Backward, and what the framework does to gradients once a step, before the optimizer."""
        loss.backward()

    def around(self) -> AbstractContextManager[Any]:
        """What surrounds a step on a machine without CUDA."""
        return nullcontext()


def packages() -> dict[str, str | None]:
    """Versions of what matters to the figures; None where a package is not there."""
    found: dict[str, str | None] = {}
    for name in SPEAKING:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def build(family: str, wanted: Wanted, device: torch.device) -> Subject:
    """The model of a framework family that can be imported here: `nemo`, `transformers` or our own, `tpscope`."""
    home = "tpscope.bench" if family == "tpscope" else f"bench.{family}"
    module = importlib.import_module(f"tpscope.frameworks.inside.{home}")
    made: Subject = module.build(wanted, device)
    return made


def version(family: str) -> str:
    """The id of the framework that would be measured, with its installed version: `nemo@0.7.0`.

    Raises ModuleNotFoundError in words of its own if it cannot be imported from here.
    """
    if family == "tpscope":  # may run from a checkout that is not installed
        return f"tpscope@{importlib.import_module('tpscope').__version__}"
    distribution = {"nemo": "nemo-automodel", "transformers": "transformers"}[family]
    try:
        return f"{family}@{metadata.version(distribution)}"
    except metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(f"{distribution} is not installed in this environment") from error
