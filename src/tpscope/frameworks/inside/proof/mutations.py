"""All faults of the self-test by name: those of the model (`broken.py`), and those of the training loop below."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from tpscope.frameworks.inside.proof import broken
from tpscope.frameworks.inside.proof.broken import MEAN, TWICE, Scaled
from tpscope.frameworks.inside.proof.facing import Facing
from tpscope.frameworks.inside.proof.mutation import Mutation, NoSuchPlace
from tpscope.frameworks.inside.proof.reference import Grads
from tpscope.frameworks.inside.proof.slices import local_of


class GradientSumDropped(Mutation):
    """Each rank keeps its own part of a norm's gradient."""

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        name = self.vector(facing)
        place = torch.arange(grads[name].numel()).reshape(grads[name].shape) % self.size == self.rank
        local = local_of(grads[name])
        local.copy_(torch.where(place, local, torch.zeros_like(local)))


class GradientScaled(Scaled):
    """All gradients times a factor, as by a local denominator."""

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        for name in grads:
            grads[name] = grads[name] * self.by


class GradientTwice(Scaled):
    """A norm's gradient is summed over tp once more."""

    factor = TWICE

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        name = self.vector(facing)
        grads[name] = grads[name] * self.by


class GradientMean(GradientTwice):
    """A norm's gradient is averaged over tp."""

    factor = MEAN


class Accumulated(Mutation):
    """A norm's gradient counts earlier micro-batches again."""

    @contextlib.contextmanager
    def around_backward(self, facing: Facing) -> Iterator[None]:
        parameter = facing.mine[self.vector(facing)]
        before = None if parameter.grad is None else parameter.grad.detach().clone()
        yield
        if before is not None and parameter.grad is not None:
            with torch.no_grad():
                parameter.grad.add_(before)


class WrongNorm(Mutation):
    """Clipping goes by a norm that counts replicated gradients on every rank."""

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        if facing.clipped is None:
            raise NoSuchPlace("the loop reports no norm")
        limit, computed, true = facing.clipped
        wrong = computed * 1.3
        facing.clipped = (limit, wrong, true)
        for name in grads:
            grads[name] = grads[name] * (min(1.0, limit / wrong) / min(1.0, limit / computed))


class Drifted(Mutation):
    """The copies of a norm part after a step."""

    def on_stepped(self, facing: Facing) -> None:
        with torch.no_grad():
            local_of(facing.mine[self.vector(facing)].detach()).mul_(1 + 0.01 * self.rank)


class OtherSamples(Mutation):
    """tp peers are given different samples."""

    def on_samples(self, batches: list[list[int]]) -> list[list[int]]:
        return batches[self.rank :] + batches[: self.rank]


class SavedWrong(Mutation):
    """A saved tensor has its rows one place off."""

    def on_saved(self, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = sorted(folder.glob("**/*.safetensors"))[0]
        tensors = load_file(file)
        name = self.at(next(name for name in tensors if tensors[name].dim() == 2 and "layers" in name))
        if self.rank == 0:
            tensors[name] = tensors[name].roll(1, 0).contiguous()
            save_file(tensors, file, metadata={"format": "pt"})


class MasksRight(Mutation):
    """No fault: dropout draws the same numbers on each rank where activations are whole, others where sharded."""

    def seed(self, ordinal: int, sharded: bool) -> int | None:
        return 100 * ordinal + (self.rank if sharded else 0)


class _Masks(Mutation):
    def placed(self) -> None:
        if not self.places:
            raise NoSuchPlace("no dropout runs on activations of this kind")


class MasksApart(_Masks):
    """Dropout draws other numbers on each rank where activations are whole."""

    def seed(self, ordinal: int, sharded: bool) -> int | None:
        if not sharded:
            self.at("dropout")
        return 100 * ordinal + self.rank


class MasksAlike(_Masks):
    """Dropout draws the same numbers on each rank where activations are sharded."""

    def seed(self, ordinal: int, sharded: bool) -> int | None:
        if sharded:
            self.at("dropout")
        return 100 * ordinal


MUTATIONS: dict[str, type[Mutation]] = {
    "forward-sum-dropped": broken.ForwardSumDropped, "output-summed-twice": broken.OutputTwice,
    "output-averaged": broken.OutputMean, "output-scaled": broken.OutputScaled, "bias-repeated": broken.BiasRepeated,
    "rows-of-another-rank": broken.RowsOfAnother, "columns-of-another-rank": broken.ColumnsOfAnother,
    "rows-rolled": broken.RowsRolled, "blocks-mixed": broken.BlocksMixed, "not-sharded": broken.NotSharded,
    "backward-sum-dropped": broken.BackwardSumDropped, "input-gradient-twice": broken.InputGradientTwice,
    "input-gradient-averaged": broken.InputGradientMean, "input-gradient-scaled": broken.InputGradientScaled,
    "gradient-sum-dropped": GradientSumDropped, "gradient-summed-twice": GradientTwice,
    "gradient-averaged": GradientMean, "gradients-scaled": GradientScaled, "accumulated-again": Accumulated,
    "untied": broken.Untied, "frozen": broken.Frozen, "wrong-norm": WrongNorm, "drifted": Drifted,
    "other-samples": OtherSamples, "saved-wrong": SavedWrong, "masks-apart": MasksApart, "masks-alike": MasksAlike,
}  # fmt: skip
MENDED: dict[str, type[Mutation]] = {"masks-right": MasksRight}
"""What makes a framework right that is wrong by itself, so that a fault can be put into it."""
