"""torch.compile of every layer, which keeps for the backward only what is costly to make again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch._dynamo.backends.registry import lookup_backend
from torch._functorch import config

from tpscope.engine.regions import outermost_lists
from tpscope.errors import UserError


def compile_layers(model: nn.Module, keep: float | None = None, compiler: str = "inductor") -> nn.Module:
    """Compile each layer of a model, in place, after adapters and before `fully_shard`. Returns the model.

    A compiled layer saves matrix products and what collectives gave; norms and activations are computed again in the
    backward, where torch's own choice saves them too. `keep` below 1 has products computed again as well, until so much
    of what torch would save is left (`torch._functorch.config.activation_memory_budget`).

    Raises UserError where the model has no list of layers, or `keep` is not between 0 and 1.
    """
    if keep is not None and not 0 <= keep <= 1:
        raise UserError(f"compile_layers: keep={keep} is no part of what is saved; give a number from 0 to 1")
    lists = outermost_lists(model)
    if not lists:
        raise UserError(f"{type(model).__name__} has no list of layers to compile; use torch.compile on its parts")
    changes: dict[str, Any] = {"aggressive_recomputation": True} if keep is None else {"activation_memory_budget": keep}
    inner = lookup_backend(compiler)

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        with config.patch(**changes):
            return inner(graph, inputs)

    for name in lists:
        for layer in model.get_submodule(name).children():
            layer.compile(backend=backend)
    return model
