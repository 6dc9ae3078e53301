"""Mends that a diagnosis tries on a sharded model: at a module's borders, on its weights, or on gradients. A cause is
named only when its mend makes the case equal."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside.proof.borders import Copy, ScaleBackward, Sum, Wait, inputs, outputs, summed
from tpscope.frameworks.inside.proof.facing import Facing
from tpscope.frameworks.inside.proof.reference import Grads, clean, parameters
from tpscope.frameworks.inside.proof.slices import gathered
from tpscope.language.plan import wildcard
from tpscope.language.proof import Cause

EVERY = "*"


@dataclass
class Mend:
    """One hypothesis and its mend. `patterns` are the modules or parameters it is about: with `*` for every layer, or
    one by its full name."""

    cause: Cause
    patterns: tuple[str, ...]
    factor: str
    what: str
    mend: str

    def on_model(self, facing: Facing) -> None:
        """Change a freshly sharded model."""

    @contextlib.contextmanager
    def around_backward(self, model: nn.Module) -> Iterator[None]:
        """Surround one backward of the loop."""
        yield

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        """Change what the optimizer is about to see."""

    def matches(self, name: str) -> bool:
        """True if this mend is about the module or parameter `name`."""
        return wildcard(name) in self.patterns or name in self.patterns or self.patterns == (EVERY,)

    def modules(self, model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        """The modules that this mend is about."""
        for name, module in model.named_modules():
            if self.matches(clean(f"{name}.").rstrip(".")):
                yield name, module


@dataclass
class Mends:
    """All mends that are in force, in the order in which they were found."""

    found: list[Mend] = field(default_factory=list)

    def on_model(self, facing: Facing) -> None:
        """Mend a freshly sharded model."""
        for mend in self.found:
            mend.on_model(facing)

    @contextlib.contextmanager
    def around_backward(self, model: nn.Module) -> Iterator[None]:
        """Mend one backward of the loop."""
        with contextlib.ExitStack() as stack:
            for mend in self.found:
                stack.enter_context(mend.around_backward(model))
            yield

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        """Mend what the optimizer is about to see."""
        for mend in self.found:
            mend.on_gradients(facing, grads)


@dataclass
class SumOutput(Mend):
    """All-reduce what the module gives."""

    def on_model(self, facing: Facing) -> None:
        for _, module in self.modules(facing.model):
            outputs(module, lambda tensor: Sum.apply(tensor, facing.groups.tp))


@dataclass
class ScaleOutput(Mend):
    """Multiply what the module gives, in forward only or with its gradient."""

    by: float = 1.0

    def on_model(self, facing: Facing) -> None:
        for _, module in self.modules(facing.model):
            outputs(module, lambda tensor: tensor * self.by)


@dataclass
class WaitOutput(Mend):
    """Wait for the collective that makes what the module gives, before anything takes it."""

    def on_model(self, facing: Facing) -> None:
        for _, module in self.modules(facing.model):
            outputs(module, Wait.apply)


@dataclass
class BiasOnce(Mend):
    """Take the bias off as often as it was added too much."""

    times: float = 1.0

    def on_model(self, facing: Facing) -> None:
        for _, module in self.modules(facing.model):
            outputs(module, lambda tensor, module=module: tensor - self.times * _bias(module).detach())  # type: ignore[misc]


def _bias(module: nn.Module) -> torch.Tensor:
    found = module.bias
    assert isinstance(found, torch.Tensor)
    return found.full_tensor() if isinstance(found, DTensor) else found


@dataclass
class SumInputGradient(Mend):
    """All-reduce the gradient that the module sends back."""

    def on_model(self, facing: Facing) -> None:
        for _, module in self.modules(facing.model):
            inputs(facing.model, module, lambda tensor: Copy.apply(tensor, facing.groups.tp))


@dataclass
class ScaleInputGradient(Mend):
    """Multiply the gradient that the module sends back."""

    by: float = 1.0

    def on_model(self, facing: Facing) -> None:
        for _, module in self.modules(facing.model):
            inputs(facing.model, module, lambda tensor: ScaleBackward.apply(tensor, self.by))


@dataclass
class RightAdapter(Mend):
    """Adapters as their base layers are cut: behind a row-cut A the sum over tp, before a column-cut B the sum of its
    gradient."""

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def on_model(self, facing: Facing) -> None:
        group = facing.groups.tp
        for name, module in facing.model.named_modules():
            pattern = wildcard(clean(f"{name}.").rstrip("."))
            if pattern in self.rows:
                outputs(module, lambda tensor: Sum.apply(tensor, group))
            elif pattern in self.columns:
                inputs(facing.model, module, lambda tensor: Copy.apply(tensor, group))


@dataclass
class TrueNorm(Mend):
    """Clip by the norm of the whole model's gradient instead of the norm that the loop computed."""

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        if facing.clipped is None:
            return
        limit, computed, true = facing.clipped
        right, done = min(1.0, limit / (true + 1e-6)), min(1.0, limit / (computed + 1e-6))
        for name in list(grads):
            grads[name] = grads[name] * (right / done)


@dataclass
class WholeNorm(Mend):
    """Clip by the norm of the whole gradient as the loop has it, whatever else may be wrong with that gradient."""

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        if facing.clipped is None:
            return
        limit, computed, _ = facing.clipped
        done = min(1.0, limit / (computed + 1e-6))
        right = min(1.0, limit / (facing.norm(grads, 1 / done) + 1e-6))
        for name in list(grads):
            grads[name] = grads[name] * (right / done)


@dataclass
class SumGradient(Mend):
    """All-reduce the parameter's gradient over tp before the optimizer."""

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        for name in list(grads):
            if self.matches(name):
                # As a plain whole tensor: a gradient's own placement may not be its parameter's.
                grads[name] = summed(gathered(grads[name].detach()), facing.groups.tp)


@dataclass
class ScaleGradient(Mend):
    """Multiply the parameter's gradient before the optimizer."""

    by: float = 1.0

    def on_gradients(self, facing: Facing, grads: Grads) -> None:
        for name in list(grads):
            if self.matches(name):
                grads[name] = grads[name] * self.by


@dataclass
class ScaleLoss(Mend):
    """Multiply what the backward of each micro-batch of this data rank starts with. `by[data rank]`: in order."""

    by: tuple[tuple[float, ...], ...] = ()

    def on_model(self, facing: Facing) -> None:
        own = self.by[facing.work.dp_rank]
        count = itertools.count()

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            factor = own[next(count) % len(own)]
            for key in ("loss", "logits"):
                if isinstance(getattr(output, key, None), torch.Tensor):
                    output[key] = ScaleBackward.apply(output[key], factor)
                    return output
            return ScaleBackward.apply(output, factor) if isinstance(output, torch.Tensor) else output

        facing.model.register_forward_hook(hook)


@dataclass
class FreshGradient(Mend):
    """Have each backward start from an empty gradient, and add what was there afterwards."""

    @contextlib.contextmanager
    def around_backward(self, model: nn.Module) -> Iterator[None]:
        own = {name: tensor for name, tensor in parameters(model).items() if self.matches(name)}
        before = {name: tensor.grad for name, tensor in own.items()}
        for tensor in own.values():
            tensor.grad = None
        yield
        for name, tensor in own.items():
            earlier = before[name]
            if earlier is not None:
                tensor.grad = earlier if tensor.grad is None else tensor.grad + earlier


@dataclass
class RightSlice(Mend):
    """Load the part of the weight that this rank's work needs. `blocks`: sizes along dim 0 that are cut one by one."""

    blocks: tuple[int, ...] = ()

    def on_model(self, facing: Facing) -> None:
        for name in list(facing.mine):
            if self.matches(name):
                facing.recut(name, self.blocks)


@dataclass
class Retie(Mend):
    """Make the output head and the embedding one parameter again."""

    def on_model(self, facing: Facing) -> None:
        facing.retie()


@dataclass
class Thaw(Mend):
    """Let train what trains in the whole model, and nothing else."""

    def on_model(self, facing: Facing) -> None:
        for name, tensor in facing.mine.items():
            if name in facing.whole_trains:
                tensor.requires_grad_(facing.whole_trains[name])
