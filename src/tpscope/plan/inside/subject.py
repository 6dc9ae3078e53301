"""The small model that is probed: random weights in float64, and what each of its modules was called with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from tpscope.frameworks.inside.proof.weights import scatter, settled

BATCH, SEQUENCE = 2, 12
_SEED = 7


def build(config: Mapping[str, Any], attention: str | None = None) -> nn.Module:
    """The model of a (small) Hugging Face config, every parameter random, nothing random in its forward pass.

    `attention` names the implementation; None is what the model takes by default.
    """
    made = _config(settled(dict(config), 0.0))
    made.use_cache = False
    # The grouped matrix product behind the default takes no float64.
    made._experts_implementation = "eager"
    torch.manual_seed(_SEED)
    model = _made(made, torch.float64, attention)
    scatter(model)
    model.tie_weights()  # type: ignore[operator]
    return model.train()


def on_meta(config: Mapping[str, Any]) -> nn.Module:
    """The model of a config in its own sizes, without memory."""
    with torch.device("meta"):
        return _made(_config(dict(config)), torch.bfloat16, None)


def _config(settings: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def _made(config: Any, dtype: torch.dtype, attention: str | None) -> nn.Module:
    from transformers import AutoModelForCausalLM

    extra = {"attn_implementation": attention} if attention else {}
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype, **extra)
    return model


def tokens(model: nn.Module, seed: int = 0) -> torch.Tensor:
    """Token ids `[batch, sequence]`, no special one among them where the vocabulary allows."""
    config: Any = model.config
    size = int(getattr(config, "vocab_size", 0) or config.get_text_config().vocab_size)
    generator = torch.Generator().manual_seed(_SEED + seed)
    return torch.randint(min(8, size // 2), size, (BATCH, SEQUENCE), generator=generator)


def logits_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The model's logits `[batch, sequence, vocabulary]`."""
    found = model(input_ids=ids, use_cache=False) if _takes_cache(model) else model(input_ids=ids)
    return found.logits


def _takes_cache(model: nn.Module) -> bool:
    import inspect

    return "use_cache" in inspect.signature(model.forward).parameters


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


def record(model: nn.Module, ids: torch.Tensor) -> tuple[Calls, torch.Tensor]:
    """Run the model once and keep what every module was called with. Returns the calls and the logits."""
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
            logits = logits_of(model, ids)
    finally:
        for handle in handles:
            handle.remove()
    return calls, logits


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
