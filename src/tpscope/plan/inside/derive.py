"""A whole model's regions: which modules fall into sums, the embedding and the head, and what stays whole and why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from tpscope.language.plan import wildcard
from tpscope.language.sharding import Edge, EdgeKind, Region, RegionKind, Sharding, Side, Whole
from tpscope.plan.inside.coupling import eased
from tpscope.plan.inside.joint import joined
from tpscope.plan.inside.layers import entries_of, join, owned, structure, tops
from tpscope.plan.inside.regions import is_lookup, merged, table_region
from tpscope.plan.inside.settings import Fit, fitting
from tpscope.plan.inside.subject import Calls, Sample, record, replica, stirred_call
from tpscope.plan.inside.touch import Prober, Touches, Trial
from tpscope.plan.inside.units import Division, Stuck, divisions

_LONGEST_SPAN = 8


@dataclass
class _Found:
    """What became of one trial, in names under its root."""

    division: Division
    fit: Fit


@dataclass
class Deriver:
    """Probes one model. Touches are kept by the structure of what was probed, for other layers and numbers of ranks."""

    model: nn.Module
    sample: Sample | None = None
    calls: Calls = field(init=False)
    output: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._sample = self.sample or Sample.of(self.model)
        self.calls, self.output = record(self.model, self._sample)
        self._touches: dict[Any, Touches] = {}
        self._found: dict[Any, _Found | str] = {}
        self._eased: dict[Any, Trial | None] = {}
        self._shapes = {name: tensor.shape for name, tensor in self.model.named_parameters()}

    def derive(self, ranks: int) -> Sharding:
        """The plan at a number of ranks."""
        self._reasons: dict[str, str] = {}
        self._regions: list[Region] = []
        for top in tops(self.model):
            self._search(top, ranks)
            self._spans(top, ranks)
        self._ends(ranks)
        regions = merged(self._regions)
        cut = {name for region in self._regions for name, share in region.shares.items() if share.cut is not None}
        total = sum(p.numel() for p in self.model.parameters())
        # Tied weights have several names and count once.
        mine = {id(self.model.get_parameter(n)): self.model.get_parameter(n).numel() for n in cut & self._all_names()}
        whole = self._whole(cut)
        config: Any = getattr(self.model, "config", None)
        fraction = sum(mine.values()) / max(1, total)
        model_type = getattr(config, "model_type", "")
        return self.joined(Sharding(model_type, type(self.model).__name__, ranks, regions, whole, fraction))

    def joined(self, plan: Sharding) -> Sharding:
        """The plan with one sum for results that are only ever added."""
        return joined(self.model, self.calls, plan)

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
            found = self._try(Trial(module, stirred_call(call)), ("module", structure(module)), ranks)
            if isinstance(found, _Found):
                self._add(name, (name,), name, found)
                return
            if found:
                self._reasons.setdefault(name, found)
        elif call is None and name in self.calls.by_name:
            self._reasons.setdefault(name, f"called {len(self.calls.by_name[name])} times in one forward pass")
        for child in children:
            self._search(join(name, child), ranks)

    def _spans(self, top: str, ranks: int) -> None:
        """Runs of modules inside one layer that are no module of their own (fc1 and fc2 beside a norm)."""
        call = self.calls.single(top)
        if call is None:
            return
        root = self.model.get_submodule(top)
        covered = {name for region in self._regions for name in region.shares}
        # Modules that fall apart into parts that do not go round: runs inside them do not either.
        odd = [place for place, why in self._reasons.items() if why.endswith(_uneven(ranks))]
        leaves = [
            name for name in self._leaves(root, top)
            if not owned(root, name, top) & covered
            and not any(join(top, name).startswith(f"{place}.") for place in odd)
        ]  # fmt: skip
        begin = 0
        for end, leaf in enumerate(leaves):
            if not any(p.dim() > 1 for p in root.get_submodule(leaf).parameters()):
                continue
            for first in range(end - 1, max(begin, end - _LONGEST_SPAN) - 1, -1):
                members = tuple(leaves[first : end + 1])
                if not any(p.dim() > 1 for p in root.get_submodule(leaves[first]).parameters()):
                    continue
                trial = Trial(root, stirred_call(call), members, leaf)
                found = self._try(trial, ("span", structure(root), members), ranks)
                if isinstance(found, _Found):
                    entries = tuple(join(top, name) for name in entries_of(trial))
                    self._add(top, entries, join(top, leaf), found)
                    begin = end + 1
                    break
                if found:
                    self._reasons.setdefault(join(top, leaf), found)

    def _leaves(self, root: nn.Module, top: str) -> list[str]:
        """Modules under a layer that hold parameters themselves and are called once, in the order of their calls."""
        names = [n for n, m in root.named_modules() if n and any(True for _ in m.parameters(recurse=False))]
        called = [(self.calls.single(join(top, name)), name) for name in names]
        return [name for _, name in sorted((call.order, name) for call, name in called if call is not None)]

    def _try(self, trial: Trial, key: Any, ranks: int) -> _Found | str:
        if (key, ranks) not in self._found:
            self._found[key, ranks] = self._tried(trial, key, ranks)
        return self._found[key, ranks]

    def _tried(self, trial: Trial, key: Any, ranks: int) -> _Found | str:
        """What came of a trial, or in words why it is no region ("" where there is nothing to say).

        Where a module inside couples all slices, a trial of a whole module is tried again with that one between a
        gather and a split.
        """
        if key not in self._touches:
            if not trial.ready():
                return ""
            self._touches[key] = Prober(trial).run()
        found = self._divided(trial, self._touches[key], ranks)
        if isinstance(found, _Found) or trial.exit or found.endswith(_uneven(ranks)):
            return found
        if key not in self._eased:
            self._eased[key] = eased(trial)
        other = self._eased[key]
        if other is None:
            return found
        if ("eased", key) not in self._touches:
            self._touches["eased", key] = Prober(other).run()
        again = self._divided(other, self._touches["eased", key], ranks)
        return again if isinstance(again, _Found) and again.fit.gathered else found

    def _divided(self, trial: Trial, touches: Touches, ranks: int) -> _Found | str:
        reason = ""
        for division in divisions(touches, ranks):
            if isinstance(division, Stuck):
                reason = reason or str(division)
                continue
            try:
                return _Found(division, fitting(trial, division, ranks))
            except Stuck as stuck:
                reason = reason or str(stuck)
        return reason or "every slice of every weight acts on all others"

    def _add(self, root: str, entries: tuple[str, ...], exit_: str, found: _Found) -> None:
        shares = {join(root, name): share for name, share in found.division.shares.items()}
        settings = {join(root, name): divisor for name, divisor in found.fit.settings.items()}
        edges = tuple(edge for name in found.fit.gathered for edge in _around(join(root, name)))
        why = f"a sum of {found.division.units} independent parts; the ranks' outputs added up to the whole output"
        if edges:
            why += f"; {', '.join(found.fit.gathered)} couple all of them and run whole"
        units, outputs = found.division.units, found.fit.outputs
        self._regions.append(Region(RegionKind.SUM, entries, (exit_,), shares, settings, outputs, units, why, edges))

    def _ends(self, ranks: int) -> None:
        """The embedding and the head: tables looked up by the token ids, and features that are the vocabulary."""
        heads: list[Region] = []
        for name, module in self.model.named_modules():
            if any(True for _ in module.children()) or (call := self.calls.single(name)) is None:
                continue
            if any(
                f"{name}.{key}" in region.shares for key, _ in module.named_parameters() for region in self._regions
            ):
                continue
            tables = {key: p for key, p in module.named_parameters(recurse=False) if p.dim() == 2}
            for key, table in tables.items():
                if (given := self._looked_up(call.args, call.kwargs)) is not None:
                    if is_lookup(module, key, call.args, call.kwargs, given):
                        heads.append(table_region(RegionKind.LOOKUP, name, {key: 0}, module, "ids"))
                elif (dim := self._head_dim(name, key, table)) is not None:
                    heads.append(table_region(RegionKind.HEAD, name, {key: dim}, module, "features"))
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
        if len(tensors) == 1 and not tensors[0].is_floating_point() and self._same_ids(tensors[0]):
            return tensors[0]
        return None

    def _same_ids(self, tensor: torch.Tensor) -> bool:
        return self._sample.ids is not None and torch.equal(tensor, self._sample.ids)

    def _head_dim(self, name: str, key: str, table: torch.Tensor) -> int | None:
        """The dimension of a weight whose slices are entries of the logits, one each; None if there is none."""
        size = self.output.shape[-1]
        for dim in (d for d in range(2) if table.shape[d] == size):
            other = replica(self.model)
            changed = size // 2
            with torch.no_grad():
                other.get_submodule(name).get_parameter(key).select(dim, changed).add_(1.0)
                moved = (self._sample.output(other) - self.output).abs().flatten(0, -2).amax(0) > 0
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


def _around(module: str) -> tuple[Edge, Edge]:
    return Edge(module, Side.INPUT, EdgeKind.GATHER), Edge(module, Side.OUTPUT, EdgeKind.SPLIT)


def _uneven(ranks: int) -> str:
    """How units.py ends what it says of groups that do not go round."""
    return f"do not divide by {ranks} ranks"
