"""The small model that is probed: random weights in float64, and what each of its modules was called with."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from tpscope.frameworks.inside.proof.weights import scatter, settled

BATCH, SEQUENCE = 2, 12
_SEED = 7


def build(config: Mapping[str, Any], attention: str | None = None, remote_code: str = "") -> nn.Module:
    """The model of a (small) Hugging Face config, every parameter random, nothing random in its forward pass.

    `attention` names the implementation; None is what the model takes by default. `remote_code`: the folder of its own
    Python code, which is run.
    """
    made = _config(settled(dict(config), 0.0), remote_code)
    made.use_cache = False
    # The grouped matrix product behind the default takes no float64.
    made._experts_implementation = "eager"
    torch.manual_seed(_SEED)
    model = _made(made, torch.float64, attention, remote_code)
    scatter(model)
    model.tie_weights()  # type: ignore[operator]
    return model.train()


def own(module: nn.Module) -> nn.Module:
    """A copy of a user's own module in float64, every parameter random, nothing random in its forward pass."""
    model = copy.deepcopy(module).double()
    scatter(model)
    return model.requires_grad_(True).eval()


def on_meta(config: Mapping[str, Any]) -> nn.Module:
    """The model of a config in its own sizes, without memory."""
    with torch.device("meta"):
        return _made(_config(dict(config)), torch.bfloat16, None)


def _config(settings: dict[str, Any], remote_code: str = "") -> Any:
    from transformers import AutoConfig

    if remote_code:
        return AutoConfig.from_pretrained(remote_code, trust_remote_code=True, **settings)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def _made(config: Any, dtype: torch.dtype, attention: str | None, remote_code: str = "") -> nn.Module:
    from transformers import AutoModelForCausalLM

    extra: dict[str, Any] = {"attn_implementation": attention} if attention else {}
    extra |= {"trust_remote_code": True} if remote_code else {}
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype, **extra)
    return model


def tokens(model: nn.Module, seed: int = 0) -> torch.Tensor:
    """Token ids `[batch, sequence]`, no special one among them where the vocabulary allows."""
    config: Any = model.config
    size = int(getattr(config, "vocab_size", 0) or config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(_SEED + seed)
    return torch.randint(min(8, size // 2), size, (BATCH, SEQUENCE), generator=generator)


@dataclass(frozen=True)
class Sample:
    """What a model is run with, and the scalar that its gradients are those of.

    `ids` are the token ids among the arguments, None where there are none. `causal`: the output is logits
    `[batch, sequence, vocabulary]` of the next token; else the scalar is the output's sum under fixed random weights.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    ids: torch.Tensor | None
    causal: bool

    @classmethod
    def of(cls, model: nn.Module, seed: int = 0) -> Sample:
        """Token ids for a causal language model of transformers."""
        ids = tokens(model, seed)
        cache = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
        return cls((), {"input_ids": ids, **cache}, ids, True)

    @classmethod
    def given(cls, sample: Any) -> Sample:
        """A user's sample: a tensor, a tuple of arguments or a mapping of named ones; floats become float64."""
        named = isinstance(sample, Mapping)
        args: tuple[Any, ...] = () if named else sample if isinstance(sample, tuple) else (sample,)
        tree = tree_map(_wide, (args, dict(sample) if named else {}))
        leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
        ids = next((leaf for leaf in leaves if leaf.dtype in (torch.int64, torch.int32)), None)
        return cls(tree[0], tree[1], ids, False)

    def output(self, model: nn.Module) -> torch.Tensor:
        """The logits, or the first floating tensor that the model gives. Raises TypeError if it gives none."""
        found = model(*fresh(self.args), **fresh(self.kwargs))
        if self.causal:
            return found.logits  # type: ignore[no-any-return]
        leaves = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
        if not leaves:
            raise TypeError(f"{type(model).__name__} gives no floating tensor")
        return leaves[0]

    def loss(self, output: torch.Tensor) -> torch.Tensor:
        """The scalar of a whole output."""
        if self.causal:
            assert self.ids is not None
            rows = output[:, :-1]
            return nn.functional.cross_entropy(rows.reshape(-1, rows.shape[-1]), self.ids[:, 1:].reshape(-1))
        generator = torch.Generator().manual_seed(_SEED)
        return (output * torch.randn(output.shape, generator=generator, dtype=output.dtype)).sum()


def _wide(item: Any) -> Any:
    return item.double() if isinstance(item, torch.Tensor) and item.is_floating_point() else item


@dataclass
class Call:
    """One call of a module: what it was given, and its place in the order of calls that began."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    order: int
    output: Any = None


@dataclass
class Calls:
    """All calls of all modules in one forward pass, by module name."""

    by_name: dict[str, list[Call]] = field(default_factory=dict)

    def single(self, name: str) -> Call | None:
        """The call of a module that was called exactly once, else None."""
        found = self.by_name.get(name, [])
        return found[0] if len(found) == 1 else None


def fresh(tree: Any) -> Any:
    """A copy of nested arguments with tensors of their own, apart from any graph."""
    return tree_map(lambda item: item.detach().clone() if isinstance(item, torch.Tensor) else item, tree)


def record(model: nn.Module, sample: Sample) -> tuple[Calls, torch.Tensor]:
    """Run the model once and keep what every module was called with. Returns the calls and the output."""
    calls, handles, counter = Calls(), [], iter(range(1_000_000))
    running: dict[str, list[Call]] = {}

    def before(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = Call(fresh(args), fresh(kwargs), next(counter))
            calls.by_name.setdefault(name, []).append(call)
            running.setdefault(name, []).append(call)

        return hook

    def after(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            running[name].pop().output = fresh(output)

        return hook

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
        handles.append(module.register_forward_hook(after(name), with_kwargs=True))
    try:
        with torch.no_grad():
            output = sample.output(model)
    finally:
        for handle in handles:
            handle.remove()
    return calls, output


def replica(module: nn.Module) -> nn.Module:
    """A copy of a module with parameters and configuration objects of its own."""
    return copy.deepcopy(module)


def stirred(given: Any) -> Any:
    """Nested arguments with independent random numbers in the first floating tensor, the hidden states.

    The small model's own hidden states may leave units of a ReLU idle, which then seem to act on nothing.
    """
    generator = torch.Generator().manual_seed(_SEED)
    changed: list[bool] = []

    def stir(item: Any) -> Any:
        if changed or not isinstance(item, torch.Tensor) or not item.is_floating_point():
            return item
        changed.append(True)
        noise = torch.randn(item.shape, generator=generator, dtype=torch.float64)
        return (noise * (item.detach().square().mean().sqrt().item() or 1.0)).to(item.dtype)

    return tree_map(stir, given)


def stirred_call(call: Call) -> Call:
    """The same of a recorded call."""
    args, kwargs = stirred((call.args, call.kwargs))
    return Call(args, kwargs, call.order, call.output)
