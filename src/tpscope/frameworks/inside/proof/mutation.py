"""What a fault of the self-test may do, and how it finds a place for it in a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside.case import Refused
from tpscope.frameworks.inside.proof.facing import Facing
from tpscope.frameworks.inside.proof.reference import Grads
from tpscope.language.answer import Failure
from tpscope.language.plan import wildcard
from tpscope.language.verdict import Status


class NoSuchPlace(Refused):
    """The model has no place for this fault: the case is unsupported, in these words."""

    def __init__(self, words: str):
        super().__init__(Status.UNSUPPORTED, Failure("NoSuchPlace", words, "fault"))


class Mutation:
    """A fault. Nothing is changed unless a subclass does. `places` names what was broken, once it is."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        self.places: list[str] = []

    def on_model(self, facing: Facing) -> None:
        """Break a freshly sharded model."""

    @contextlib.contextmanager
    def around_backward(self, facing: Facing) -> Iterator[None]:
        """Break one backward."""
        yield

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        """Break what the optimizer is about to see."""

    def on_stepped(self, facing: Facing) -> None:
        """Break the parameters after the optimizer's steps."""

    def on_samples(self, batches: list[list[int]]) -> list[list[int]]:
        """Break what a rank's loader yields."""
        return batches

    def on_saved(self, folder: Path) -> None:
        """Break what was saved."""

    def seed(self, ordinal: int, sharded: bool) -> int | None:
        """Seed of the random stream of one dropout; None leaves it as it is."""
        return None

    def placed(self) -> None:
        """Raise NoSuchPlace for a fault of which only the run shows whether there was a place for it."""

    def at(self, place: str) -> str:
        """Note a place that is broken."""
        if place not in self.places:
            self.places.append(place)
        return place

    def linear(self, facing: Facing, dim: int) -> nn.Module:
        """The first Linear of a decoder layer whose weight is cut on `dim`. Raises NoSuchPlace."""
        for name in layers(facing, dim):
            owner, _, leaf = name.rpartition(".")
            module = facing.model.get_submodule(owner)
            if leaf == "weight" and (isinstance(module, nn.Linear) or "Linear" in type(module).__name__):
                self.at(owner)
                return module
        raise NoSuchPlace(f"no Linear layer is cut on dim {dim}")

    def vector(self, facing: Facing) -> str:
        """The first weight of a norm in a decoder layer, which every rank holds whole. Raises NoSuchPlace."""
        for name in layers(facing, None, vector=True):
            if name.endswith("weight") and facing.whole_trains.get(name):
                return self.at(name)
        raise NoSuchPlace("no layer has a replicated vector that trains")


def layers(facing: Facing, dim: int | None, vector: bool = False) -> Iterator[str]:
    """Names of parameters inside decoder layers that are cut on `dim` over tp, in the model's order."""
    for name, cut in facing.parts_by_claim().items():
        inner = "*" in wildcard(name) and name in facing.whole
        if inner and cut == dim and (facing.whole[name].dim() < 2) == vector and ".lora_" not in name:
            yield name


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's share, differentiable."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
