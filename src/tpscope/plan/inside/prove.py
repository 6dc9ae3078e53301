"""The proof of a derived plan: every rank in one process, loss and every gradient against the unsharded model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from tpscope.engine.parallelize import parallelize
from tpscope.engine.slices import take
from tpscope.engine.vocabulary import causal_loss
from tpscope.language.sharding import Region, RegionKind, Sharding, Share
from tpscope.plan.inside.noise import MARGIN, Noise
from tpscope.plan.inside.subject import Sample, replica

_SEEDS = (1, 2)
_PATIENCE = 120.0


class ThreadAxis:
    """One rank of an axis whose ranks are threads of one process. A rank that raises ends the others' waiting."""

    def __init__(self, rank: int, barrier: threading.Barrier, board: list[Any]):
        self.rank, self.size = rank, len(board)
        self._barrier, self._board = barrier, board
        self.counts: dict[str, int] = {}

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The ranks' tensors added up, in the order of ranks."""
        self._count("all_reduce")
        return torch.stack(self._exchange(tensor)).sum(0)

    def maximum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The largest of the ranks' tensors."""
        self._count("all_reduce")
        return torch.stack(self._exchange(tensor)).amax(0)

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The ranks' tensors."""
        self._count("all_gather")
        return [item.clone() for item in self._exchange(tensor)]

    def _count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def _exchange(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self._board[self.rank] = tensor.detach()
        self._barrier.wait(_PATIENCE)
        found = list(self._board)
        self._barrier.wait(_PATIENCE)
        return found


@dataclass
class Outcome:
    """What a proof gave. Errors are the largest difference over its tolerance: above 1 is wrong."""

    equal: bool
    loss_error: float = 0.0
    wrong: dict[str, float] = field(default_factory=dict)
    compared: int = 0
    error: str = ""
    collectives: dict[str, int] = field(default_factory=dict)
    dead: tuple[str, ...] = ()
    largest: float = 0.0


@dataclass
class Reference:
    """Loss and gradients of the whole model, and how far they move when every result is one ulp off."""

    loss: float
    gradients: dict[str, torch.Tensor]
    loss_tolerance: float
    tolerances: dict[str, float]


def reference(model: nn.Module, sample: Sample) -> Reference:
    """Run the whole model three times: as it is, and twice with every second number one ulp smaller."""
    runs = [_whole(model, sample, seed) for seed in (None, *_SEEDS)]
    loss, gradients = runs[0]
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    ulp = torch.finfo(torch.float64).eps
    tolerances = {
        name: MARGIN * max(ulp * largest, *((other[1][name] - gradient).abs().max().item() for other in runs[1:]))
        for name, gradient in gradients.items()
    }
    spread = max(abs(other[0] - loss) for other in runs[1:])
    return Reference(loss, gradients, MARGIN * max(spread, ulp * abs(loss)), tolerances)


def _whole(model: nn.Module, sample: Sample, seed: int | None) -> tuple[float, dict[str, torch.Tensor]]:
    own = replica(model)
    with Noise(seed) if seed is not None else nullcontext():
        loss = sample.loss(sample.output(own))
        loss.backward()
    return loss.item(), {n: p.grad for n, p in own.named_parameters() if p.grad is not None}


def prove(model: nn.Module, plan: Sharding, known: Reference, sample: Sample) -> Outcome:
    """Run all ranks of a plan and compare every rank's loss and gradients with the reference's slices."""
    barrier, board = threading.Barrier(plan.tp), [None] * plan.tp
    axes = [ThreadAxis(rank, barrier, board) for rank in range(plan.tp)]
    results: list[tuple[float, dict[str, torch.Tensor], Any] | None] = [None] * plan.tp
    errors: list[str] = []

    def run(rank: int) -> None:
        try:
            results[rank] = _rank(model, plan, axes[rank], sample)
        except threading.BrokenBarrierError:
            pass
        except Exception as error:  # noqa: BLE001, whatever the model raises is the outcome of the proof
            errors.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(plan.tp)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors or any(result is None for result in results):
        return Outcome(False, error=errors[0] if errors else "the ranks wait for different collectives")
    return _judged(known, plan, [result for result in results if result is not None], axes[0].counts)


def _rank(
    model: nn.Module, plan: Sharding, axis: ThreadAxis, sample: Sample
) -> tuple[float, dict[str, torch.Tensor], Any]:
    with torch.random.fork_rng(enabled=False):
        local = sample.causal and any(region.kind is RegionKind.HEAD for region in plan.regions)
        sharded = parallelize(replica(model), axis, plan, logits="sharded" if local else "whole")
        output = sample.output(sharded.model)
        if local:
            assert sample.ids is not None
            loss = causal_loss(output, sample.ids, sharded.vocabulary_begin, axis)
        else:
            loss = sample.loss(output)
        loss.backward()
    found = {n: p.grad for n, p in sharded.model.named_parameters() if p.grad is not None}
    return loss.item(), found, sharded.cuts


def _judged(known: Reference, plan: Sharding, results: list[Any], counts: dict[str, int]) -> Outcome:
    wrong: dict[str, float] = {}
    largest = 0.0
    loss_error = max(abs(loss - known.loss) for loss, _, _ in results) / known.loss_tolerance
    for rank, (_, gradients, cuts) in enumerate(results):
        for name, whole in known.gradients.items():
            wanted = take(whole, cuts[name], rank, plan.tp) if name in cuts else whole
            found = gradients.get(name)
            if found is None or found.shape != wanted.shape:
                wrong[name] = float("inf")
                continue
            error = (found - wanted).abs().max().item() / known.tolerances[name] if wanted.numel() else 0.0
            largest = max(largest, error)
            if not error <= 1.0:
                wrong[name] = max(wrong.get(name, 0.0), error)
    dead = tuple(n for n, g in known.gradients.items() if g.abs().max().item() <= known.tolerances[n])
    equal = not wrong and loss_error <= 1.0
    return Outcome(equal, loss_error, wrong, len(known.gradients), "", dict(counts), dead, largest)


@dataclass(frozen=True)
class Control:
    """A plan that was broken on purpose, and whether the proof saw it."""

    what: str
    found: bool


def controls(model: nn.Module, plan: Sharding, known: Reference, sample: Sample) -> list[Control]:
    """Break the plan in every way that applies, once each, and prove again."""
    return [Control(what, not prove(model, broken, known, sample).equal) for what, broken in _broken(plan, known)]


def _broken(plan: Sharding, known: Reference) -> list[tuple[str, Sharding]]:
    found: list[tuple[str, Sharding]] = []
    seen: set[str] = set()

    def add(kind: str, what: str, index: int, region: Region) -> None:
        if kind not in seen:
            seen.add(kind)
            regions = (*plan.regions[:index], region, *plan.regions[index + 1 :])
            found.append((what, replace(plan, regions=regions)))

    changes: list[tuple[str, Callable[[Share], bool], Callable[[Share], Share]]] = [
        ("gradient not summed", lambda s: s.summed, lambda s: replace(s, summed=False)),
        ("counted on every rank", lambda s: s.once, lambda s: replace(s, once=False)),
    ]
    for index, region in enumerate(plan.regions):
        for kind, applies, change in changes:
            for name, share in region.shares.items():
                if applies(share):
                    shares = {**region.shares, name: change(share)}
                    add(kind + region.kind, f"{name}: {kind}", index, replace(region, shares=shares))
        if region.kind != "lookup":
            what = f"{region.entries[0]}: no sum of input gradients"
            add(f"entry {region.kind}", what, index, replace(region, entries=()))
        if region.edges:
            add("edges", f"{region.edges[0].module}: on slices", index, replace(region, edges=()))
        if region.kind == "sum" and region.outputs:
            add("exit", f"{region.exits[0]}: outputs not added", index, replace(region, outputs=()))
    return found
