"""Faults of the sharded model itself: its forward, what its layers send back, its weights."""

# ruff: noqa: D102 - what each method breaks stands in Mutation

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside.proof.borders import ScaleBackward, inputs, outputs
from tpscope.frameworks.inside.proof.facing import Facing
from tpscope.frameworks.inside.proof.mutation import Mutation, NoSuchPlace, layers, local
from tpscope.frameworks.inside.proof.slices import WHOLE, Part, local_of


@dataclass
class _Factor:
    """Names a factor by the number of ranks."""

    of: Callable[[int], float]


TWICE, MEAN, OTHER = _Factor(float), _Factor(lambda size: 1 / size), _Factor(lambda size: 0.7)


class Scaled(Mutation):
    """Something times a factor."""

    factor = OTHER

    @property
    def by(self) -> float:
        """The factor for this number of ranks."""
        return self.factor.of(self.size)


class _Gather(torch.autograd.Function):
    """All-gather along the last dim forward, this rank's share backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.rank, ctx.width = dist.get_rank(group), tensor.shape[-1]
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, tensor.contiguous(), group=group)
        return torch.cat(parts, -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0].narrow(-1, ctx.rank * ctx.width, ctx.width).contiguous(), None


class _Split(torch.autograd.Function):
    """This rank's share of the last dim forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return tensor.chunk(dist.get_world_size(group), -1)[dist.get_rank(group)].contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        parts = [torch.empty_like(grads[0]) for _ in range(dist.get_world_size(ctx.group))]
        dist.all_gather(parts, grads[0].contiguous(), group=ctx.group)
        return torch.cat(parts, -1), None


def _partial(module: Any, given: torch.Tensor, facing: Facing) -> torch.Tensor:
    """The product of a rank's columns with its share of the input. The ranks' sum is the whole layer, bias included."""
    weight, given = local(module.weight), local(given)
    if given.shape[-1] != weight.shape[-1]:
        given = _Split.apply(given, facing.groups.tp)
    product = F.linear(given, weight)
    if getattr(module, "bias", None) is None:
        return product
    bias = local(module.bias)
    # A share of its value, all of its gradient.
    return product + bias.detach() / facing.size + (bias - bias.detach())


class ForwardSumDropped(Mutation):
    """A row-parallel layer gives its partial product."""

    def on_model(self, facing: Facing) -> None:
        self.linear(facing, 1).register_forward_hook(lambda module, args, output: _partial(module, args[0], facing))


class OutputScaled(Scaled):
    """The output of a row-parallel layer times a factor."""

    def on_model(self, facing: Facing) -> None:
        outputs(self.linear(facing, 1), lambda tensor: tensor * self.by)


class OutputTwice(OutputScaled):
    """It is summed over tp once more."""

    factor = TWICE


class OutputMean(OutputScaled):
    """It is averaged over tp."""

    factor = MEAN


class BiasRepeated(Mutation):
    """Every rank adds the bias of a row-parallel layer before the sum."""

    def on_model(self, facing: Facing) -> None:
        module = self.linear(facing, 1)
        if getattr(module, "bias", None) is None:
            raise NoSuchPlace("the row-parallel layers have no bias")

        def change(tensor: torch.Tensor) -> torch.Tensor:
            bias = module.bias
            whole = bias.full_tensor() if isinstance(bias, DTensor) else bias
            return tensor + (self.size - 1) * whole.detach()

        outputs(module, change)


class _OtherRank(Mutation):
    dim = 0

    def on_model(self, facing: Facing) -> None:
        module = self.linear(facing, self.dim)
        name = f"{self.places[0]}.weight"
        mine = local_of(module.weight.detach())
        part = facing.parts.get(name) or Part(self.dim)
        with torch.no_grad():
            mine.copy_(part.of(facing.whole[name], (self.rank + 1) % self.size, self.size))


class RowsOfAnother(_OtherRank):
    """A column-parallel weight holds the rows of the next rank."""


class ColumnsOfAnother(_OtherRank):
    """A row-parallel weight holds the columns of the next rank."""

    dim = 1


class RowsRolled(Mutation):
    """The rows of a column-parallel weight are one place off."""

    def on_model(self, facing: Facing) -> None:
        mine = local_of(self.linear(facing, 0).weight.detach())
        with torch.no_grad():
            mine.copy_(mine.roll(1, 0))


class BlocksMixed(Mutation):
    """A fused weight is cut block by block where it is used as one, or as one where it is used block by block."""

    def on_model(self, facing: Facing) -> None:
        for name in layers(facing, 0):
            whole = facing.whole[name]
            for sizes in facing.blocks:
                if sum(sizes) == whole.shape[0] and all(block % self.size == 0 for block in sizes):
                    self._mix(facing, name, sizes)
                    return
        raise NoSuchPlace("no weight is fused of several")

    def _mix(self, facing: Facing, name: str, sizes: tuple[int, ...]) -> None:
        self.at(name.removesuffix(".weight"))
        mine, whole = local_of(facing.mine[name].detach()), facing.whole[name]
        as_one = Part(0).of(whole, self.rank, self.size)
        by_blocks = Part(0, sizes).of(whole, self.rank, self.size)
        with torch.no_grad():
            mine.copy_(by_blocks if torch.equal(mine, as_one) else as_one)


class NotSharded(Mutation):
    """Every rank holds and computes a whole feed-forward block that the plan cuts. All numbers stay right."""

    def on_model(self, facing: Facing) -> None:
        rows = [name.rpartition(".")[0] for name in layers(facing, 1) if name.endswith(".weight")]
        rows = [name for name in rows if isinstance(facing.model.get_submodule(name), nn.Linear)]
        block = next((name.rpartition(".")[0] for name in rows if "attn" not in name and "attention" not in name), None)
        if block is None:
            raise NoSuchPlace("no feed-forward block of Linear layers is cut")
        for leaf, module in list(facing.model.get_submodule(block).named_children()):
            if isinstance(module, nn.Linear):
                self._whole(facing, block, leaf)

    def _whole(self, facing: Facing, block: str, leaf: str) -> None:
        name = self.at(f"{block}.{leaf}")
        weight, bias = facing.whole[f"{name}.weight"], facing.whole.get(f"{name}.bias")
        made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=weight.dtype)
        setattr(facing.model.get_submodule(block), leaf, made)
        for part, tensor in made.named_parameters():
            with torch.no_grad():
                tensor.copy_(facing.whole[f"{name}.{part}"])
            facing.mine[f"{name}.{part}"] = tensor
            facing.parts[f"{name}.{part}"] = WHOLE


class BackwardSumDropped(Mutation):
    """A column-parallel layer sends back its partial input gradient."""

    def on_model(self, facing: Facing) -> None:
        module = self.linear(facing, 0)

        def hook(module: Any, args: tuple[Any, ...], output: Any) -> Any:
            bias = None if module.bias is None else local(module.bias)
            given = F.linear(local(args[0]), local(module.weight), bias)
            if isinstance(output, DTensor):
                return DTensor.from_local(given, output.device_mesh, output.placements, run_check=False)
            return given if given.shape == output.shape else _Gather.apply(given, facing.groups.tp)

        module.register_forward_hook(hook)


class InputGradientScaled(Scaled):
    """The gradient that a column-parallel layer sends back times a factor."""

    def on_model(self, facing: Facing) -> None:
        inputs(facing.model, self.linear(facing, 0), lambda tensor: ScaleBackward.apply(tensor, self.by))


class InputGradientTwice(InputGradientScaled):
    """It is summed over tp once more."""

    factor = TWICE


class InputGradientMean(InputGradientScaled):
    """It is averaged over tp."""

    factor = MEAN


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
        facing.mine[self.vector(facing)].requires_grad_(False)
