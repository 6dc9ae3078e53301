"""What a plan sends in one step at published sizes: run on fake tensors by the engine, every collective noted."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from tpscope.engine.parallelize import parallelize
from tpscope.engine.vocabulary import causal_loss
from tpscope.frameworks.inside.price.fake import Fake, filled, unseen
from tpscope.frameworks.inside.price.routing import Routing
from tpscope.frameworks.inside.price.where import Place
from tpscope.language.plan import wildcard
from tpscope.language.sharding import RegionKind, Sharding
from tpscope.plan.inside.subject import Sample
from tpscope.plan.result import Cost, Source

TOKENS = 2048
Entries = Literal["shared", "each"]
# As if all of it were in a layer: there the questions of a router are answered.
_PLACE = Place("layer", 0)


@dataclass
class _Noted:
    """One rank of an axis that nobody else is on: what would be sent is noted, and comes back as it went."""

    size: int
    rank: int = 0
    calls: list[tuple[str, int]] = field(default_factory=list)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._note("all_reduce", tensor).clone()

    def maximum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._note("all_reduce", tensor).clone()

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Its payload is what every rank has afterwards."""
        self.calls.append(("all_gather", tensor.numel() * tensor.element_size() * self.size))
        return [tensor.clone() for _ in range(self.size)]

    def _note(self, kind: str, tensor: torch.Tensor) -> torch.Tensor:
        self.calls.append((kind, tensor.numel() * tensor.element_size()))
        return tensor


def cost(model: nn.Module, plan: Sharding, source: Source, layers: int, entries: Entries = "shared") -> Cost:
    """The traffic of a plan on a model that is on meta, and the part of its layers, of which there are so many.
    `entries`: as `parallelize` takes it.

    Raises what the model's code raises on tensors without numbers.
    """
    ends = replace(plan, regions=tuple(region for region in plan.regions if not _layered(region.exits[0])))
    whole, outside = _calls(model, plan, entries), _calls(model, ends, entries)
    kinds: dict[str, int] = {}
    for kind, _ in whole:
        kinds[kind] = kinds.get(kind, 0) + 1
    sent, beside = sum(size for _, size in whole), sum(size for _, size in outside)
    each = max(1, layers)
    return Cost(
        source, "published", TOKENS, round((len(whole) - len(outside)) / each, 2), round((sent - beside) / each),
        len(whole), sent, kinds,
    )  # fmt: skip


def layers_of(model: nn.Module) -> int:
    """How many layers there are: the elements of the longest list of modules."""
    return max((len(m) for m in model.modules() if isinstance(m, nn.ModuleList)), default=1)


def _layered(name: str) -> bool:
    return wildcard(name) != name or "*" in name


def _calls(model: nn.Module, plan: Sharding, entries: Entries) -> list[tuple[str, int]]:
    axis = _Noted(plan.tp)
    with _Answering(model), unseen():
        own = filled(copy.deepcopy(model))
        own.train()
        local = any(region.kind is RegionKind.HEAD for region in plan.regions)
        sharded = parallelize(own, axis, plan, logits="sharded" if local else "whole", entries=entries)
        found = Sample.of(own)
        ids = torch.zeros((1, TOKENS), dtype=torch.int64)
        sample = replace(found, kwargs={**found.kwargs, "input_ids": ids}, ids=ids)
        output = sample.output(sharded.model)
        begin = sharded.vocabulary_begin
        loss = causal_loss(output, ids, begin, axis) if local else sample.loss(output)
        loss.backward()
    return axis.calls


class _Answering(Fake):
    """Fake tensors; what code asks of their numbers is answered as for price: no padding, a balanced router."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self._routing = Routing(model, TOKENS)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, or answer it."""
        fake = any(isinstance(item, FakeTensor) for item in args)
        found = self._routing.answered(func, args, _PLACE, "forward") if fake else NotImplemented
        return super().__torch_dispatch__(func, types, args, kwargs) if found is NotImplemented else found
