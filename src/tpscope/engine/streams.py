"""Random streams of dropout: equal on all ranks where activations are whole or partial sums, their own where sharded.

Outside of regions all ranks draw from one stream, torch's own, which they have to seed alike. A fork saves its state,
goes on with a stream made from it, and puts it back: nothing else is kept, so that recomputing a checkpointed layer
draws the same masks again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tpscope.engine.hooks import border
from tpscope.engine.regions import tensor_of
from tpscope.language.sharding import Cut, EdgeKind, Region

_SHARED = -1


@dataclass
class _Fork:
    """A stream in use: the state to go back to, what new streams are made from, how many were, and what runs."""

    state: torch.Tensor
    seed: int
    count: int = 0
    summed: bool = False


class Streams:
    """The forks of one model on one rank, innermost last."""

    def __init__(self, rank: int):
        self.rank = rank
        self.forks: list[_Fork] = []

    def enter(self, device: torch.device, stream: int) -> None:
        """Go on with the stream of a rank, or with one that all ranks share."""
        if self.forks:
            outer = self.forks[-1]
            outer.count += 1
            seed = _digest(f"{outer.seed} {outer.count}".encode())
        else:
            torch.rand((), device=device)  # the next fork is another one
            seed = _digest(_state(device).numpy().tobytes())
        self.forks.append(_Fork(_state(device), seed))
        _random(device).manual_seed(_digest(f"{seed} {stream}".encode()))

    def leave(self, device: torch.device) -> None:
        """Back to the stream before."""
        _random(device).set_rng_state(self.forks.pop().state)


def _random(device: torch.device) -> Any:
    return torch.cuda if device.type == "cuda" else torch.random


def _state(device: torch.device) -> torch.Tensor:
    found: torch.Tensor = _random(device).get_rng_state()
    return found


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=7).digest())


def drops(module: nn.Module) -> bool:
    """True if a module or a part of it drops something out in training."""
    return any(drops_itself(part) for part in module.modules())


def drops_itself(part: nn.Module) -> bool:
    """True for a Dropout, or a module whose forward reads a rate."""
    if isinstance(part, nn.Dropout):
        return part.p > 0
    return any("dropout" in key and isinstance(rate, float) and rate > 0 for key, rate in vars(part).items())


def whole_inside(region: Region) -> bool:
    """True if a region's activations are whole up to its exit, which splits them: its columns are gathered (OLMo2's
    attention as transformers ships it)."""
    return any(edge.kind is EdgeKind.SPLIT and edge.module in region.exits for edge in region.edges)


def fork_region(model: nn.Module, region: Region, cuts: dict[str, Cut], streams: Streams) -> None:
    """A region's dropouts draw from the rank's own stream; those behind its last weight, on partial sums, from the
    shared one: dropping the same of every term drops it of the sum."""
    exit_ = model.get_submodule(region.exits[0])
    entry = model.get_submodule(region.entries[0]) if region.entries else exit_
    inner = [entry, exit_] if entry is not exit_ else [exit_]
    if whole_inside(region) or not any(drops(module) for module in inner):
        return
    device = next(exit_.parameters()).device

    def before(module: nn.Module, args: Any) -> None:
        if module.training and torch.is_grad_enabled():
            streams.forks.clear()
            streams.enter(device, streams.rank)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if module.training and torch.is_grad_enabled() and streams.forks:
            streams.leave(device)

    def summed(module: nn.Module, args: Any, output: Any) -> None:
        if streams.forks:
            streams.forks[-1].summed = True

    border(entry, entry.register_forward_pre_hook, before)
    border(exit_, exit_.register_forward_hook, after)
    for name, cut in cuts.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        if name in region.shares and tensor_of(model, name).dim() == 2 and cut.dim == _input_dim(owner):
            owner.register_forward_hook(summed)
    for module in exit_.modules():
        if isinstance(module, nn.Dropout):
            fork_dropout(module, streams, lambda: _SHARED if streams.forks and streams.forks[-1].summed else None)


def _input_dim(module: nn.Module) -> int:
    """The dimension of a weight that its inputs lie along."""
    return 1 if isinstance(module, nn.Linear) else 0


def fork_dropout(module: nn.Dropout, streams: Streams, stream: Any) -> None:
    """A Dropout that draws from the stream that `stream()` names when it runs; None: from the current one."""
    open_: list[bool] = []

    def before(module: nn.Module, args: Any) -> None:
        wanted = stream() if module.training and torch.is_grad_enabled() else None
        open_.append(wanted is not None)
        if wanted is not None:
            streams.enter(args[0].device, wanted)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if open_.pop():
            streams.leave(args[0].device)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def fork_between(model: nn.Module, regions: list[Region], layers: list[str], streams: Streams) -> None:
    """Under sequence parallelism, Dropouts of layers outside of regions see this rank's tokens only."""
    inside = {
        id(part) for region in regions for name in (*region.entries, *region.exits)
        for part in model.get_submodule(name).modules()
    }  # fmt: skip
    for name in layers:
        for module in model.get_submodule(name).modules():
            if isinstance(module, nn.Dropout) and id(module) not in inside:
                fork_dropout(module, streams, lambda: streams.rank)


def fork_adapter(module: nn.Module, streams: Streams, sharded: bool) -> None:
    """The dropout in front of an adapter: the same mask on all ranks where its input is whole, also inside of a region;
    the rank's own where it is sharded, also where nothing else in the region drops out."""
    if isinstance(module, nn.Dropout):
        outer, inner = (streams.rank, None) if sharded else (None, _SHARED)
        fork_dropout(module, streams, lambda: inner if streams.forks else outer)
