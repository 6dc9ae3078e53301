"""Rules of another engine, one style a module, as regions of ours: what they make the ranks compute.

A row-parallel module ends a region; the column-parallel modules, norms and bare parameters beside it in the same module
belong to it. Every column is an entry of its own, as in those engines, so that traffic is counted as they have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from tpscope.language.sharding import Cut, Edge, EdgeKind, Region, RegionKind, Segment, Sharding, Share, Side
from tpscope.plan.inside.regions import merged
from tpscope.plan.result import Kind, Spelled

_COLUMNS = (Kind.COLUMN, Kind.PACKED, Kind.GATHERED)
_ROWS = (Kind.ROW, Kind.PACKED_ROW, Kind.SPLIT)
_PACKS = 2


@dataclass(frozen=True)
class Problem:
    """What stands in the way of running a rule. `rule` None: the plan as a whole."""

    rule: Spelled | None
    what: str
    why: str


@dataclass
class Translation:
    """The regions, and the rules that became none of them."""

    plan: Sharding
    problems: list[Problem] = field(default_factory=list)
    matched: dict[str, Spelled] = field(default_factory=dict)


def matches(pattern: str, names: Iterable[str]) -> list[str]:
    """Names that fall under a pattern; `*` is any text between two dots."""
    parts = (re.escape(part).replace(r"\*", r"[^.]*") for part in pattern.split("."))
    wanted = re.compile(r"\.".join(parts))
    return [name for name in names if wanted.fullmatch(name)]


def translate(model: nn.Module, rules: Iterable[Spelled], tp: int) -> Translation:
    """Regions for a model's modules. What cannot be run is among the problems, and left out of the plan."""
    config = getattr(model, "config", None)
    found = Translation(Sharding(getattr(config, "model_type", ""), type(model).__name__, tp, ()))
    modules = dict(model.named_modules())
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers()])
    for rule in rules:
        names = matches(rule.pattern, [*modules, *tensors])
        if not names:
            found.problems.append(Problem(rule, "matches nothing", _closest(rule.pattern, [*modules, *tensors])))
        for name in names:
            found.matched[name] = rule
    builder = _Builder(model, modules, tensors, found)
    regions = builder.regions()
    found.plan = Sharding(found.plan.model, found.plan.architecture, tp, merged(regions))
    return found


def _closest(pattern: str, names: list[str]) -> str:
    import difflib

    wild = dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names)
    close = difflib.get_close_matches(pattern, list(wild), 1, 0.5)
    return f"the closest name in the model is {close[0]}" if close else "no name in the model is close to it"


class _Builder:
    def __init__(
        self, model: nn.Module, modules: dict[str, nn.Module], tensors: dict[str, torch.Tensor], found: Translation
    ):
        self._model, self._modules, self._tensors, self._found = model, modules, tensors, found
        self._left = dict(found.matched)

    def regions(self) -> list[Region]:
        """All regions of the model, layer by layer."""
        regions = [*self._containers(), *self._sums(), *self._ends()]
        for name, rule in self._left.items():
            if rule.kind in _COLUMNS:
                regions += self._alone(name, rule)
            elif rule.kind in _ROWS and name in self._modules:
                self._problem(rule, "its input is whole", f"no column-parallel module beside {name} gives it a slice")
            elif rule.kind is Kind.SUM:
                regions.append(Region(RegionKind.SUM, (), (name,), self._shares(name, rule), outputs=()))
            elif rule.kind is Kind.UNKNOWN:
                self._problem(rule, "unknown style", "its meaning is not known, so nothing is proven of it")
        return regions

    def _problem(self, rule: Spelled, what: str, why: str) -> None:
        if all((item.rule, item.what) != (rule, what) for item in self._found.problems):
            self._found.problems.append(Problem(rule, what, why))

    def _containers(self) -> list[Region]:
        """Modules with bare weights (fused experts), which run on their slices and whose outputs are added up."""
        regions = []
        for name in [name for name, rule in self._left.items() if rule.kind is Kind.EXPERTS]:
            del self._left[name]
            shares: dict[str, Share] = {}
            for inner in [inner for inner in self._left if inner.startswith(f"{name}.") and inner in self._tensors]:
                shares |= self._tensor(inner, self._left.pop(inner))
            regions.append(Region(RegionKind.SUM, (name,), (name,), shares))
        return regions

    def _sums(self) -> list[Region]:
        regions = []
        for name, rule in list(self._left.items()):
            module = self._modules.get(name)
            if rule.kind not in _ROWS or module is None or isinstance(module, nn.Embedding):
                continue
            if not _linear(module):
                self._problem(rule, "no Linear", f"{name} is a {type(module).__name__}; this style is for Linear")
                del self._left[name]
                continue
            home = name.rpartition(".")[0]
            beside = [other for other in self._left if other != name and other.rpartition(".")[0] == home]
            columns = [other for other in beside if self._left[other].kind in _COLUMNS and self._columnar(other)]
            if not columns and rule.kind is not Kind.SPLIT:
                continue
            if any(self._left[other].kind in _ROWS for other in beside):
                self._problem(rule, "two rows in one module", f"{home} has two row-parallel modules")
                continue
            shares: dict[str, Share] = {}
            edges: list[Edge] = []
            for other in beside:
                kind = self._left[other].kind
                if kind in (*_COLUMNS, Kind.SUM) and (other in self._tensors or other in columns or kind is Kind.SUM):
                    shares |= self._shares(other, self._left.pop(other))
                    edges += [Edge(other, Side.OUTPUT, EdgeKind.GATHER)] * (kind is Kind.GATHERED)
            shares |= self._shares(name, self._left.pop(name))
            edges += [Edge(name, Side.INPUT, EdgeKind.SPLIT)] * (rule.kind is Kind.SPLIT)
            entries = tuple(columns) or (name,)
            regions.append(Region(RegionKind.SUM, entries, (name,), shares, edges=tuple(edges)))
        return regions

    def _columnar(self, name: str) -> bool:
        module = self._modules.get(name)
        if module is None:
            return False
        if not _linear(module):
            rule = self._left[name]
            self._problem(rule, "no Linear", f"{name} is a {type(module).__name__}; this style is for Linear")
        return _linear(module)

    def _ends(self) -> list[Region]:
        regions = []
        output = getattr(self._model, "get_output_embeddings", lambda: None)()
        for name, rule in list(self._left.items()):
            module = self._modules.get(name)
            table = isinstance(module, nn.Embedding) and rule.kind in (Kind.LOOKUP, Kind.ROW, Kind.SPLIT)
            head = module is not None and module is output and rule.kind in _COLUMNS
            if not table and not head:
                continue
            del self._left[name]
            size = self._tensors[f"{name}.weight"].shape[0]
            cut = Share(Cut(0, (Segment(size),), ragged=True))
            shares = {f"{name}.weight": cut} | ({f"{name}.bias": cut} if f"{name}.bias" in self._tensors else {})
            regions.append(Region(RegionKind.LOOKUP if table else RegionKind.HEAD, (name,), (name,), shares))
        return regions

    def _alone(self, name: str, rule: Spelled) -> list[Region]:
        """A column without a row: fine if its output is gathered at once."""
        module = self._modules.get(name)
        if rule.kind is Kind.GATHERED and module is not None and _linear(module):
            edge = Edge(name, Side.OUTPUT, EdgeKind.GATHER)
            return [Region(RegionKind.SUM, (name,), (name,), self._shares(name, rule), outputs=(), edges=(edge,))]
        if module is None or _linear(module):
            why = f"no row-parallel module beside {name} takes up its slices, and nothing gathers them"
            self._problem(rule, "its output stays cut", why)
        else:
            self._problem(rule, "no Linear", f"{name} is a {type(module).__name__}; this style is for Linear")
        return []

    def _shares(self, name: str, rule: Spelled) -> dict[str, Share]:
        if name in self._tensors:
            return self._tensor(name, rule)
        own = [key for key, _ in self._modules[name].named_parameters(recurse=False)]
        found: dict[str, Share] = {}
        for key in own:
            found |= self._tensor(f"{name}.{key}", rule)
        return found

    def _tensor(self, name: str, rule: Spelled) -> dict[str, Share]:
        tensor = self._tensors[name]
        if rule.kind is Kind.SUM:
            return {name: Share(summed=True)}
        if rule.kind in _ROWS:
            if tensor.dim() == 1:
                return {name: Share(once=True)}
            return {name: Share(Cut(tensor.dim() - 1, _segments(tensor.shape[-1], rule.kind is Kind.PACKED_ROW)))}
        if rule.kind in _COLUMNS:
            dim = max(tensor.dim() - 2, 0)
            return {name: Share(Cut(dim, _segments(tensor.shape[dim], rule.kind is Kind.PACKED)))}
        return {}


def _segments(size: int, packed: bool) -> tuple[Segment, ...]:
    return (Segment(size // _PACKS),) * _PACKS if packed else (Segment(size),)


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
