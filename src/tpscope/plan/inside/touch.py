"""Which slices of a region's weights act on each other, found by changing one slice and looking at all gradients.

A region can be computed on slices and its results added if and only if its output is a sum of functions, each of its
own group of slices: slices of different groups then have no mixed second difference. Change slice `i` of one weight;
the gradient of another group's slices stays what it was. No knowledge of layers or operators goes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from tpscope.plan.inside.noise import MARGIN, Noise
from tpscope.plan.inside.subject import Call, fresh, replica, stirred

_SEEDS = (3, 4)
# Up to so many slices are changed one by one; beyond so many classes, some of them stand for all.
_FEW, _MOST_CLASSES = 16, 160


@dataclass
class Trial:
    """Part of a model that may become a region: `root` is run with `call`, `members` are its modules by name under
    root, and the output of `exit` ("" is root itself) is what has to be a sum."""

    root: nn.Module
    call: Call
    members: tuple[str, ...] = ("",)
    exit: str = ""

    def copy(self) -> Trial:
        """The same part with weights of its own."""
        return Trial(replica(self.root), self.call, self.members, self.exit)

    def ready(self) -> bool:
        """False where the exit gives something although all weights are zero: a residual is no sum over ranks."""
        empty = self.copy()
        with torch.no_grad():
            for tensor in empty.tensors().values():
                tensor.zero_()
            given = empty.outputs()
        return bool(given) and given[0].dim() > 1 and given[0].abs().max().item() == 0.0

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module of the region, by its name under root."""
        for member in self.members:
            for name, module in self.root.get_submodule(member).named_modules(prefix=member):
                yield name.strip("."), module

    def tensors(self) -> dict[str, torch.Tensor]:
        """Parameters and floating buffers of the region by name under root, each once."""
        found: dict[str, torch.Tensor] = {}
        seen: set[int] = set()
        for prefix, module in self.modules():
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            for name, tensor in own:
                if tensor.is_floating_point() and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found[f"{prefix}.{name}".strip(".")] = tensor
        return found

    def outputs(self) -> list[torch.Tensor]:
        """The floating tensors that the exit gives."""
        kept: list[Any] = []
        hooks = [self.root.get_submodule(self.exit).register_forward_hook(lambda *parts: kept.append(parts[-1]))]
        if self.members != ("",):
            # What goes into a run of modules is random too: units that a ReLU leaves idle seem to act on nothing.
            first = self.root.get_submodule(self.members[0])
            hooks.append(first.register_forward_pre_hook(lambda _, args: stirred(args)))
        try:
            given = self.root(*fresh(self.call.args), **fresh(self.call.kwargs))
        except Exception:  # what follows the exit may not fit a slice, and does not matter
            if not kept:
                raise
            given = None
        finally:
            for hook in hooks:
                hook.remove()
        found = kept[-1] if kept else given
        return [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


@dataclass
class Row:
    """One changed slice: which slices of every tensor's dimensions had another gradient."""

    name: str
    dim: int
    index: int
    hits: dict[str, dict[int, torch.Tensor]]


@dataclass
class Touches:
    """All rows of a region. `sizes`: shape by tensor; `idle`: tensors without any gradient; `same`: slices that were
    not changed themselves because a changed one of the same tensor acts on them (index -> that one's index)."""

    sizes: dict[str, tuple[int, ...]]
    numbers: dict[str, int]
    parameters: frozenset[str]
    idle: frozenset[str]
    rows: dict[tuple[str, int], list[Row]] = field(default_factory=dict)
    same: dict[tuple[str, int], dict[int, int]] = field(default_factory=dict)
    global_: dict[str, set[str]] = field(default_factory=dict)


class Prober:
    """Changes slices of one trial's weights and compares gradients with those of the unchanged region."""

    def __init__(self, trial: Trial):
        self._trial = trial.copy()
        self._tensors = self._trial.tensors()
        for tensor in self._tensors.values():
            tensor.requires_grad_(True)
        self._scale: dict[str, float] = {}
        self._generator = torch.Generator().manual_seed(11)
        self._cotangents = [self._random(output) for output in self._trial.outputs()]
        self.base = self._gradients(None)
        noisy = [self._gradients(seed) for seed in _SEEDS]
        self._floor = {name: self._noise(name, noisy) for name in self._tensors}

    def _random(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=self._generator, dtype=torch.float64).to(like.dtype)

    def _gradients(self, seed: int | None) -> dict[str, torch.Tensor]:
        with Noise(seed) if seed is not None else nullcontext():
            outputs = self._trial.outputs()
            pairs = [(out, c) for out, c in zip(outputs, self._cotangents, strict=True) if out.requires_grad]
            if not pairs:  # indices, a choice of experts: no gradient comes through them
                return {}
            total = torch.stack([(out * c).sum().double() for out, c in pairs]).sum()
            found = torch.autograd.grad(total, list(self._tensors.values()), allow_unused=True)
        return {name: g for name, g in zip(self._tensors, found, strict=True) if g is not None}

    def _noise(self, name: str, noisy: list[dict[str, torch.Tensor]]) -> float:
        if name not in self.base:
            return 0.0
        spread = max((run[name] - self.base[name]).abs().max().item() for run in noisy)
        ulp = torch.finfo(self.base[name].dtype).eps * self.base[name].abs().max().item()
        return MARGIN * max(spread, ulp)

    def run(self) -> Touches:
        """Change the slices of every dimension of every tensor."""
        sizes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        numbers = {name: tensor.numel() for name, tensor in self._tensors.items()}
        parameters = frozenset(name for name, tensor in self._tensors.items() if isinstance(tensor, nn.Parameter))
        zero = {name for name, g in self.base.items() if g.abs().max().item() <= self._floor[name]}
        idle = frozenset(name for name in self._tensors if name not in self.base) | zero
        found = Touches(sizes, numbers, parameters, idle)
        dims = [(name, dim) for name, shape in sizes.items() if name in self.base for dim in range(len(shape))]
        local = [where for where in dims if self._falls_apart(found, *where)]
        left = [where for where in local if sizes[where[0]][where[1]] <= _FEW or not self._coded(found, *where)]
        for name, dim in sorted(left, key=lambda where: -sizes[where[0]][where[1]]):
            self._one_by_one(found, name, dim)
        return found

    def _falls_apart(self, found: Touches, name: str, dim: int) -> bool:
        """True if a few slices of a dimension leave others alone."""
        size = found.sizes[name][dim]
        rows = [self._row(name, dim, [index]) for index in sorted({0, size // 2, size - 1})]
        for row in rows:
            found.global_.setdefault(name, set()).update(row.hits)
        return size > 1 and any(_local(row) for row in rows)

    def _coded(self, found: Touches, name: str, dim: int) -> bool:
        """Change half of all slices at once, once for each bit of their numbers, and once for each bit's complement.

        A slice of another tensor that moves under exactly one of each pair is acted on by one slice only, and the bits
        spell its number. False, and nothing is kept, where a slice is acted on by some but not by all.
        """
        size = found.sizes[name][dim]
        bits = (size - 1).bit_length()
        halves = [[[i for i in range(size) if (i >> bit & 1) == value] for value in (0, 1)] for bit in range(bits)]
        pairs = [[self._row(name, dim, half).hits for half in two] for two in halves]
        spelled: dict[tuple[str, int], torch.Tensor] = {}
        for other in {key for two in pairs for hits in two for key in hits} - {name}:
            for axis, length in enumerate(found.sizes[other]):
                none = torch.zeros(length, dtype=torch.bool)
                moved = [[hits.get(other, {}).get(axis, none) for hits in two] for two in pairs]
                both = torch.stack([two[0] & two[1] for two in moved]).all(0)
                single = torch.stack([two[0] ^ two[1] for two in moved]).all(0)
                idle = torch.stack([~(two[0] | two[1]) for two in moved]).all(0)
                if bool(both.all()):
                    spelled[other, axis] = torch.full((length,), -1)
                elif bool((single | idle).all()):
                    number = sum(two[1].long() << bit for bit, two in enumerate(moved))
                    spelled[other, axis] = torch.where(idle, -2, torch.as_tensor(number))
                else:
                    return False
        if not any(bool((numbers >= 0).any()) for numbers in spelled.values()):
            return False
        found.rows[name, dim] = [Row(name, dim, index, _read(spelled, index)) for index in range(size)]
        found.same[name, dim] = {}
        return True

    def _one_by_one(self, found: Touches, name: str, dim: int) -> None:
        """Change slice by slice, one of each class of slices that the rows so far act on alike."""
        size = found.sizes[name][dim]
        signature: dict[int, list[tuple[str, int, int]]] = {index: [] for index in range(size)}
        for (other, axis), rows in found.rows.items():
            for row in rows:
                hit = row.hits.get(name, {}).get(dim)
                if hit is not None and not bool(hit.all()):
                    for index in hit.nonzero().flatten().tolist():
                        signature[index].append((other, axis, row.index))
        classes: dict[tuple[tuple[str, int, int], ...], int] = {}
        same: dict[int, int] = {}
        for index, touched in signature.items():
            if touched:
                first = classes.setdefault(tuple(touched), index)
                if first != index:
                    same[index] = first
        waiting = [index for index in range(size) if index not in same]
        if all(signature.values()) and len(waiting) > _MOST_CLASSES:
            waiting = waiting[:: len(waiting) // _FEW]
        kept: list[Row] = []
        actors: dict[int, int] = {}
        for index in waiting:
            if index in same:
                continue
            row = self._row(name, dim, [index])
            kept.append(row)
            itself = row.hits.get(name, {}).get(dim)
            if itself is not None and not bool(itself.all()):
                for other in torch.nonzero(itself).flatten().tolist():
                    actors[other] = actors.get(other, 0) + (other != index)
                    if other > index:
                        same.setdefault(other, index)
        # Slices that several act on are none of theirs: the keys of all queries in one fused weight.
        for index in [index for index, count in actors.items() if count > 1 and index in same]:
            del same[index]
            kept.append(self._row(name, dim, [index]))
        found.rows[name, dim] = kept
        found.same[name, dim] = same

    def _row(self, name: str, dim: int, indices: list[int]) -> Row:
        tensor, chosen = self._tensors[name], torch.tensor(indices)
        with torch.no_grad():
            part = tensor.index_select(dim, chosen)
            scale = self._scale.setdefault(name, tensor.square().mean().sqrt().item() or 1.0)
            tensor.index_add_(dim, chosen, self._random(part) * scale)
        try:
            after = self._gradients(None)
        finally:
            with torch.no_grad():
                tensor.index_copy_(dim, chosen, part)
        hits: dict[str, dict[int, torch.Tensor]] = {}
        for other, gradient in after.items():
            moved = (gradient - self.base[other]).abs() > self._floor[other]
            if bool(moved.any()):
                hits[other] = {
                    axis: moved.movedim(axis, 0).reshape(moved.shape[axis], -1).any(1) for axis in range(moved.dim())
                }
        return Row(name, dim, indices[0], hits)


def _read(spelled: dict[tuple[str, int], torch.Tensor], index: int) -> dict[str, dict[int, torch.Tensor]]:
    hits: dict[str, dict[int, torch.Tensor]] = {}
    for (other, axis), numbers in spelled.items():
        hit = (numbers == index) | (numbers == -1)
        if bool(hit.any()):
            hits.setdefault(other, {})[axis] = hit
    return hits


def _local(row: Row) -> bool:
    """True if the slice leaves some slices of another tensor that it acts on as they were."""
    return any(not bool(hit.all()) for other, axes in row.hits.items() if other != row.name for hit in axes.values())
