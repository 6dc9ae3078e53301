"""A whole model's regions: which modules fall into sums, the embedding and the head, and what stays whole and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from tpscope.language.plan import wildcard
from tpscope.language.sharding import Cut, Region, RegionKind, Segment, Sharding, Share, Whole
from tpscope.plan.inside.settings import fitting
from tpscope.plan.inside.subject import Calls, fresh, logits_of, record, replica, stirred_call, tokens
from tpscope.plan.inside.touch import Prober, Touches, Trial
from tpscope.plan.inside.units import Division, Stuck, divisions

_LONGEST_SPAN = 8


@dataclass
class _Found:
    """What became of one trial, in names under its root."""

    division: Division
    settings: dict[str, int]
    outputs: tuple[int, ...]


@dataclass
class Deriver:
    """Probes one model. Touches are kept by the structure of what was probed, for other layers and numbers of ranks."""

    model: nn.Module
    ids: torch.Tensor = field(init=False)
    calls: Calls = field(init=False)
    logits: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.ids = tokens(self.model)
        self.calls, self.logits = record(self.model, self.ids)
        self._touches: dict[Any, Touches] = {}
        self._found: dict[Any, _Found | str] = {}
        self._shapes = {name: tensor.shape for name, tensor in self.model.named_parameters()}

    def derive(self, ranks: int) -> Sharding:
        """The plan at a number of ranks."""
        self._reasons: dict[str, str] = {}
        self._regions: list[Region] = []
        for top in _tops(self.model):
            self._search(top, ranks)
            self._spans(top, ranks)
        self._ends(ranks)
        regions = _merged(self._regions)
        cut = {name for region in self._regions for name, share in region.shares.items() if share.cut is not None}
        total = sum(p.numel() for p in self.model.parameters())
        # Tied weights have several names and count once.
        mine = {id(self.model.get_parameter(n)): self.model.get_parameter(n).numel() for n in cut & self._all_names()}
        whole = self._whole(cut)
        config: Any = self.model.config
        return Sharding(
            config.model_type, type(self.model).__name__, ranks, regions, whole, sum(mine.values()) / max(1, total)
        )

    def _all_names(self) -> set[str]:
        return {name for name, _ in self.model.named_parameters(remove_duplicate=False)}

    def _whole(self, cut: set[str]) -> tuple[Whole, ...]:
        ids = {id(self.model.get_parameter(name)) for name in cut & self._all_names()}
        found: dict[str, Whole] = {}
        for name, parameter in self.model.named_parameters():
            if id(parameter) in ids or parameter.dim() < 2:
                continue
            pattern = wildcard(name)
            why = next((why for place, why in self._reasons.items() if name.startswith(f"{place}.")), "")
            why = why or self._shared_why(name) or "no independent groups of slices were found around it"
            before = found.get(pattern, Whole(pattern, why))
            found[pattern] = replace(before, elements=before.elements + parameter.numel())
        return tuple(sorted(found.values(), key=lambda item: -item.elements))

    def _shared_why(self, name: str) -> str:
        return next((region.shares[name].why for region in self._regions if name in region.shares), "")

    def _search(self, name: str, ranks: int) -> None:
        """Try a module as one region; where it is none, its children."""
        module, call = self.model.get_submodule(name), self.calls.single(name)
        children = [child for child, part in module.named_children() if any(True for _ in part.parameters())]
        if call is not None and children and any(p.dim() > 1 for p in module.parameters()):
            found = self._try(Trial(module, stirred_call(call)), ("module", _structure(module)), ranks)
            if isinstance(found, _Found):
                self._add(name, (name,), name, found)
                return
            if found:
                self._reasons.setdefault(name, found)
        elif call is None and name in self.calls.by_name:
            self._reasons.setdefault(name, f"called {len(self.calls.by_name[name])} times in one forward pass")
        for child in children:
            self._search(f"{name}.{child}", ranks)

    def _spans(self, top: str, ranks: int) -> None:
        """Runs of modules inside one layer that are no module of their own (fc1 and fc2 beside a norm)."""
        call = self.calls.single(top)
        if call is None:
            return
        root = self.model.get_submodule(top)
        covered = {name for region in self._regions for name in region.shares}
        leaves = [name for name in self._leaves(root, top) if not _owned(root, name, top) & covered]
        begin = 0
        for end, leaf in enumerate(leaves):
            if not any(p.dim() > 1 for p in root.get_submodule(leaf).parameters()):
                continue
            for first in range(end - 1, max(begin, end - _LONGEST_SPAN) - 1, -1):
                members = tuple(leaves[first : end + 1])
                if not any(p.dim() > 1 for p in root.get_submodule(leaves[first]).parameters()):
                    continue
                trial = Trial(root, stirred_call(call), members, leaf)
                found = self._try(trial, ("span", _structure(root), members), ranks)
                if isinstance(found, _Found):
                    entries = tuple(f"{top}.{name}" for name in _entries(trial))
                    self._add(top, entries, f"{top}.{leaf}", found)
                    begin = end + 1
                    break
                if found:
                    self._reasons.setdefault(f"{top}.{leaf}", found)

    def _leaves(self, root: nn.Module, top: str) -> list[str]:
        """Modules under a layer that hold parameters themselves and are called once, in the order of their calls."""
        names = [n for n, m in root.named_modules() if n and any(True for _ in m.parameters(recurse=False))]
        called = [(self.calls.single(f"{top}.{name}"), name) for name in names]
        return [name for _, name in sorted((call.order, name) for call, name in called if call is not None)]

    def _try(self, trial: Trial, key: Any, ranks: int) -> _Found | str:
        if (key, ranks) not in self._found:
            self._found[key, ranks] = self._tried(trial, key, ranks)
        return self._found[key, ranks]

    def _tried(self, trial: Trial, key: Any, ranks: int) -> _Found | str:
        """What came of a trial, or in words why it is no region ("" where there is nothing to say)."""
        if key not in self._touches:
            if not trial.ready():
                return ""
            self._touches[key] = Prober(trial).run()
        reason = ""
        for division in divisions(self._touches[key], ranks):
            if isinstance(division, Stuck):
                reason = reason or str(division)
                continue
            try:
                settings, outputs = fitting(trial, division, ranks)
            except Stuck as stuck:
                reason = reason or str(stuck)
                continue
            return _Found(division, settings, outputs)
        return reason or "every slice of every weight acts on all others"

    def _add(self, root: str, entries: tuple[str, ...], exit_: str, found: _Found) -> None:
        shares = {f"{root}.{name}": share for name, share in found.division.shares.items()}
        settings = {f"{root}.{name}": divisor for name, divisor in found.settings.items()}
        why = f"a sum of {found.division.units} independent parts; the ranks' outputs added up to the whole output"
        self._regions.append(
            Region(RegionKind.SUM, entries, (exit_,), shares, settings, found.outputs, found.division.units, why)
        )

    def _ends(self, ranks: int) -> None:
        """The embedding and the head: tables looked up by the token ids, and features that are the vocabulary."""
        heads: list[Region] = []
        for name, module in self.model.named_modules():
            if any(True for _ in module.children()) or (call := self.calls.single(name)) is None:
                continue
            tables = {key: p for key, p in module.named_parameters(recurse=False) if p.dim() == 2}
            for key, table in tables.items():
                if (given := self._looked_up(call.args, call.kwargs)) is not None:
                    if _is_lookup(module, key, call.args, call.kwargs, given):
                        heads.append(_table(RegionKind.LOOKUP, name, {key: 0}, module, "ids"))
                elif (dim := self._head_dim(name, key, table)) is not None:
                    heads.append(_table(RegionKind.HEAD, name, {key: dim}, module, "features"))
        owners: dict[int, set[str]] = {}
        for tied, parameter in self.model.named_parameters(remove_duplicate=False):
            owners.setdefault(id(parameter), set()).add(tied)
        cut = {name for region in heads for name in region.shares}
        for region in heads:
            names = [owners.get(id(self.model.get_parameter(name)), set()) for name in region.shares]
            if all(group <= cut for group in names):
                self._regions.append(region)
            else:
                missing = sorted(set().union(*names) - cut)
                self._reasons[region.exits[0]] = f"tied to {missing[0]}, which is not cut along its entries"

    def _looked_up(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
        tensors = [item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
        if len(tensors) == 1 and not tensors[0].is_floating_point() and torch.equal(tensors[0], self.ids):
            return tensors[0]
        return None

    def _head_dim(self, name: str, key: str, table: torch.Tensor) -> int | None:
        """The dimension of a weight whose slices are entries of the logits, one each; None if there is none."""
        size = self.logits.shape[-1]
        for dim in (d for d in range(2) if table.shape[d] == size):
            other = replica(self.model)
            changed = size // 2
            with torch.no_grad():
                other.get_submodule(name).get_parameter(key).select(dim, changed).add_(1.0)
                moved = (logits_of(other, self.ids) - self.logits).abs().amax(dim=(0, 1)) > 0
            alone = int(moved.sum()) == 1 and bool(moved[changed])
            tied = any(
                p is table for n, p in self.model.named_parameters(remove_duplicate=False) if n != f"{name}.{key}"
            )
            if alone or (tied and bool(moved[changed]) and self._head_by_output(name, size)):
                return dim
        return None

    def _head_by_output(self, name: str, size: int) -> bool:
        call = self.calls.single(name)
        return call is not None and isinstance(call.output, torch.Tensor) and call.output.shape[-1] == size


def _tops(model: nn.Module) -> Iterator[str]:
    """Elements of lists of modules that are in no other list: the layers, whatever they are called."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    for name in outer:
        yield from (f"{name}.{index}" for index, _ in enumerate(model.get_submodule(name).children()))


def _structure(module: nn.Module) -> tuple[Any, ...]:
    """What two modules have in common if they are computed alike."""
    shapes = tuple((name, tuple(p.shape)) for name, p in module.named_parameters())
    numbers = tuple((key, v) for key, v in vars(module).items() if type(v) is int and key != "layer_idx")
    return type(module), shapes, tuple(type(part) for part in module.modules()), numbers


def _owned(root: nn.Module, leaf: str, top: str) -> set[str]:
    return {f"{top}.{leaf}.{name}" for name, _ in root.get_submodule(leaf).named_parameters(recurse=False)}


def _entries(trial: Trial) -> list[str]:
    """Members whose input does not depend on what other members compute."""
    inputs: list[dict[str, list[torch.Tensor]]] = []
    for changed in (False, True):
        own = trial.copy()
        kept: dict[str, list[torch.Tensor]] = {}
        for name in own.members:
            module = own.root.get_submodule(name)
            if changed:
                with torch.no_grad():
                    for parameter in module.parameters():
                        parameter.add_(torch.ones_like(parameter))
            module.register_forward_pre_hook(
                lambda _, args, name=name, kept=kept: kept.setdefault(name, []).extend(
                    item.clone() for item in args if isinstance(item, torch.Tensor)
                )
            )
        with torch.no_grad():
            own.root(*fresh(own.call.args), **fresh(own.call.kwargs))
        inputs.append(kept)
    before, after = inputs
    return [n for n in trial.members if all(torch.equal(a, b) for a, b in zip(before[n], after[n], strict=True))]


def _is_lookup(module: nn.Module, key: str, args: tuple[Any, ...], kwargs: dict[str, Any], ids: torch.Tensor) -> bool:
    """True if one row of a table moves the output exactly where its number is looked up."""
    other = replica(module)
    row = int(ids.flatten()[0])
    with torch.no_grad():
        before = other(*fresh(args), **fresh(kwargs))
        other.get_parameter(key).select(0, row).add_(1.0)
        after = other(*fresh(args), **fresh(kwargs))
    if not isinstance(before, torch.Tensor) or before.shape[: ids.dim()] != ids.shape:
        return False
    moved = (after - before).flatten(ids.dim()).abs().amax(-1) > 0
    return torch.equal(moved, ids == row)


def _table(kind: RegionKind, name: str, dims: dict[str, int], module: nn.Module, entries: str) -> Region:
    size = next(module.get_parameter(key).shape[dim] for key, dim in dims.items())
    shares = {}
    for key, parameter in module.named_parameters(recurse=False):
        dim = dims.get(key, 0 if parameter.shape == (size,) else None)
        if dim is not None:
            why = f"one of its {size} slices moves one of the {entries} only"
            shares[f"{name}.{key}"] = Share(Cut(dim, (Segment(size),), ragged=True), why=why)
    return Region(kind, (name,), (name,), shares, {}, (0,), size, f"its {size} slices are independent {entries}")


def _merged(regions: list[Region]) -> tuple[Region, ...]:
    """Regions of different layers as one, by pattern, where they say the same; else by their own names."""
    by_pattern: dict[Any, list[Region]] = {}
    for region in regions:
        by_pattern.setdefault((wildcard(region.exits[0]), frozenset(map(wildcard, region.shares))), []).append(region)
    found: list[Region] = []
    for group in by_pattern.values():
        general = [_general(region) for region in group]
        if all(item == general[0] for item in general):
            found.append(general[0])
        else:
            found += group
    return tuple(found)


def _general(region: Region) -> Region:
    return replace(
        region,
        entries=tuple(map(wildcard, region.entries)),
        exits=tuple(map(wildcard, region.exits)),
        shares={wildcard(name): share for name, share in region.shares.items()},
        settings={wildcard(name): divisor for name, divisor in region.settings.items()},
    )
