"""Faults that are put into a right model on purpose: what the self-test must find and name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside.proof.facing import Facing
from tpscope.frameworks.inside.proof.mends import inputs, outputs
from tpscope.frameworks.inside.proof.reference import Grads
from tpscope.frameworks.inside.proof.slices import local_of
from tpscope.language.plan import wildcard


class Mutation:
    """A fault. Nothing is changed unless a subclass does."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size

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


class NoSuchPlace(Exception):
    """The model has no place for this fault."""


def _layers(facing: Facing, dim: int | None, vector: bool = False) -> Iterator[str]:
    """Names of parameters inside decoder layers that are cut on `dim` over tp, in the model's order."""
    for name, cut in facing.parts_by_claim().items():
        inner = "*" in wildcard(name)
        if inner and cut == dim and (facing.whole[name].dim() < 2) == vector and ".lora_" not in name:
            yield name


def _module(facing: Facing, dim: int) -> tuple[str, nn.Module]:
    for name in _layers(facing, dim):
        owner, _, leaf = name.rpartition(".")
        module = facing.model.get_submodule(owner)
        if leaf == "weight" and (isinstance(module, nn.Linear) or "Linear" in type(module).__name__):
            return owner, module
    raise NoSuchPlace(f"no Linear layer is cut on dim {dim}")


def _vector(facing: Facing) -> str:
    """A replicated weight vector of a decoder layer: a norm's."""
    for name in _layers(facing, None, vector=True):
        if name.endswith("weight"):
            return name
    raise NoSuchPlace("no layer has a replicated vector")


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class _Times(torch.autograd.Function):
    """Identity forward, a factor backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0] * ctx.factor, None


class ForwardSumDropped(Mutation):
    """A row-parallel layer gives its partial product."""

    def on_model(self, facing: Facing) -> None:
        _, module = _module(facing, 1)

        def hook(module: Any, args: tuple[Any, ...], output: Any) -> Any:
            return F.linear(_local(args[0]), _local(module.weight))

        module.register_forward_hook(hook)


@dataclass
class _Factor:
    """Names a factor by the number of ranks."""

    of: Callable[[int], float]


TWICE, MEAN, OTHER = _Factor(float), _Factor(lambda size: 1 / size), _Factor(lambda size: 0.7)


class _Scaled(Mutation):
    factor = OTHER

    @property
    def by(self) -> float:
        return self.factor.of(self.size)


class OutputScaled(_Scaled):
    """The output of a row-parallel layer times a factor."""

    def on_model(self, facing: Facing) -> None:
        outputs(_module(facing, 1)[1], lambda tensor: tensor * self.by)


class OutputTwice(OutputScaled):
    """It is summed over tp once more."""

    factor = TWICE


class OutputMean(OutputScaled):
    """It is averaged over tp."""

    factor = MEAN


class BiasRepeated(Mutation):
    """Every rank adds the bias of a row-parallel layer before the sum."""

    def on_model(self, facing: Facing) -> None:
        _, module = _module(facing, 1)
        if getattr(module, "bias", None) is None:
            raise NoSuchPlace("the row-parallel layers have no bias")

        def change(tensor: torch.Tensor) -> torch.Tensor:
            bias = module.bias
            whole = bias.full_tensor() if isinstance(bias, DTensor) else bias
            return tensor + (self.size - 1) * whole.detach()

        outputs(module, change)


class SliceOfAnother(Mutation):
    """A column-parallel weight holds the rows of the next rank."""

    def on_model(self, facing: Facing) -> None:
        owner, module = _module(facing, 0)
        whole = facing.whole[f"{owner}.weight"]
        local = local_of(module.weight.detach())
        with torch.no_grad():
            local.copy_(whole.chunk(self.size, 0)[(self.rank + 1) % self.size])


class RowsRolled(Mutation):
    """The rows of a column-parallel weight are one place off."""

    def on_model(self, facing: Facing) -> None:
        local = local_of(_module(facing, 0)[1].weight.detach())
        with torch.no_grad():
            local.copy_(local.roll(1, 0))


class BackwardSumDropped(Mutation):
    """A column-parallel layer sends back its partial input gradient."""

    def on_model(self, facing: Facing) -> None:
        owner, module = _module(facing, 0)

        def hook(module: Any, args: tuple[Any, ...], output: Any) -> Any:
            bias = None if module.bias is None else _local(module.bias)
            given = F.linear(_local(args[0]), _local(module.weight), bias)
            return (
                given
                if not isinstance(output, DTensor)
                else DTensor.from_local(given, output.device_mesh, output.placements, run_check=False)
            )

        module.register_forward_hook(hook)


class InputGradientScaled(_Scaled):
    """The gradient that a column-parallel layer sends back times a factor."""

    def on_model(self, facing: Facing) -> None:
        inputs(_module(facing, 0)[1], lambda tensor: _Times.apply(tensor, self.by))


class InputGradientTwice(InputGradientScaled):
    """It is summed over tp once more."""

    factor = TWICE


class InputGradientMean(InputGradientScaled):
    """It is averaged over tp."""

    factor = MEAN


class GradientSumDropped(Mutation):
    """Each rank keeps its own part of a norm's gradient."""

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        name = _vector(facing)
        place = torch.arange(grads[name].numel()).reshape(grads[name].shape) % self.size == self.rank
        local = local_of(grads[name])
        local.copy_(torch.where(place, local, torch.zeros_like(local)))


class GradientScaled(_Scaled):
    """All gradients times a factor, as by a local denominator."""

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        for name in grads:
            grads[name] = grads[name] * self.by


class GradientTwice(_Scaled):
    """A norm's gradient is summed over tp once more."""

    factor = TWICE

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        name = _vector(facing)
        grads[name] = grads[name] * self.by


class GradientMean(GradientTwice):
    """A norm's gradient is averaged over tp."""

    factor = MEAN


class Accumulated(Mutation):
    """A norm's gradient counts earlier micro-batches again."""

    @contextlib.contextmanager
    def around_backward(self, facing: Facing) -> Iterator[None]:
        parameter = facing.mine[_vector(facing)]
        before = None if parameter.grad is None else parameter.grad.detach().clone()
        yield
        if before is not None and parameter.grad is not None:
            with torch.no_grad():
                parameter.grad.add_(before)


class Untied(Mutation):
    """The output head becomes a parameter of its own."""

    def on_model(self, facing: Facing) -> None:
        groups: dict[int, list[str]] = {}
        for name, tensor in facing.whole.items():
            groups.setdefault(tensor.data_ptr(), []).append(name)
        names = next((names for names in groups.values() if len(names) > 1), None)
        if names is None:
            raise NoSuchPlace("no parameter is tied")
        owner, _, leaf = names[-1].rpartition(".")
        own = nn.Parameter(facing.mine[names[0]].detach().clone())
        setattr(facing.model.get_submodule(owner), leaf, own)
        facing.mine[names[-1]] = own


class Frozen(Mutation):
    """A parameter does not train."""

    def on_model(self, facing: Facing) -> None:
        facing.mine[_vector(facing)].requires_grad_(False)


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
            local_of(facing.mine[_vector(facing)].detach()).mul_(1 + 0.01 * self.rank)


class OtherSamples(Mutation):
    """tp peers are given different samples."""

    def on_samples(self, batches: list[list[int]]) -> list[list[int]]:
        return batches[self.rank :] + batches[: self.rank]


class SavedWrong(Mutation):
    """A saved tensor is another one's slice."""

    def on_saved(self, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        if self.rank:
            return
        file = sorted(folder.glob("**/*.safetensors"))[0]
        tensors = load_file(file)
        name = next(name for name in tensors if tensors[name].dim() == 2 and "layers" in name)
        tensors[name] = tensors[name].roll(1, 0).contiguous()
        save_file(tensors, file, metadata={"format": "pt"})


class MasksApart(Mutation):
    """Dropout draws other numbers on each rank where activations are whole, and the same where they are sharded."""

    def seed(self, ordinal: int, sharded: bool) -> int | None:
        return 100 * ordinal + (0 if sharded else self.rank)


MUTATIONS: dict[str, type[Mutation]] = {
    "forward-sum-dropped": ForwardSumDropped, "output-summed-twice": OutputTwice, "output-averaged": OutputMean,
    "output-scaled": OutputScaled, "bias-repeated": BiasRepeated, "slice-of-another-rank": SliceOfAnother,
    "rows-rolled": RowsRolled, "backward-sum-dropped": BackwardSumDropped, "input-gradient-twice": InputGradientTwice,
    "input-gradient-averaged": InputGradientMean, "input-gradient-scaled": InputGradientScaled,
    "gradient-sum-dropped": GradientSumDropped, "gradient-summed-twice": GradientTwice,
    "gradient-averaged": GradientMean, "gradients-scaled": GradientScaled, "accumulated-again": Accumulated,
    "untied": Untied, "frozen": Frozen, "wrong-norm": WrongNorm, "drifted": Drifted, "other-samples": OtherSamples,
    "saved-wrong": SavedWrong, "masks-apart": MasksApart,
}  # fmt: skip
