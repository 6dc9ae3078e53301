"""Somebody's plan reviewed by running it: what matches nothing, what is left whole, which numbers are wrong and why.

A gradient that nobody sums is told by the mend: with the sum the plan is proven, without it is not. So is a gather for
nothing: without it the plan is still proven.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from tpscope.language.plan import wildcard
from tpscope.language.sharding import Region, Sharding, Share
from tpscope.plan.inside.derive import Deriver
from tpscope.plan.inside.prove import Outcome, Reference, prove
from tpscope.plan.inside.subject import Sample
from tpscope.plan.inside.translate import Translation, matches, translate
from tpscope.plan.result import Finding, Given, Kind, Severity, Spelled

# A matrix that is left whole counts if it is more than this part of all parameters.
LARGE = 0.01
Proof = Callable[[Sharding], Outcome]


@dataclass
class Reviewer:
    """Reviews plans for one model at one number of ranks. `derived` is asked if something is left whole."""

    model: nn.Module
    sample: Sample
    known: Reference
    deriver: Deriver
    tp: int
    findings: list[Finding] = field(default_factory=list)

    def review(self, given: Given, form: str) -> Outcome:
        """The findings go into `findings`; returns the proof of the plan as it stands."""
        self.findings = []
        if given.plan is not None:
            found = Translation(given.plan)
            if given.plan.tp != self.tp:
                why = f"its slices are for {given.plan.tp} ranks and {self.tp} are asked for"
                self._add(Severity.WRONG, "another number of ranks", "tp", why, f"derive it with --tp {self.tp}")
                return Outcome(False, error=why)
            self._unmatched(given.plan)
        else:
            found = translate(self.model, given.rules, self.tp)
            for item in found.problems:
                self._add(
                    Severity.WRONG, item.what, item.rule or "", item.why, _REMEDIES.get(item.what, "correct the rule")
                )
        self._tied(found)
        outcome = self._prove(found.plan) if found.plan.regions else Outcome(False, error="the plan cuts nothing")
        if not outcome.equal:
            self._wrong(found, outcome)
        else:
            self._gathered(found)
        self._twice(given.rules)
        self._head(given.rules, form)
        self._left(found, outcome)
        if any(rule.kind is Kind.SEQUENCE or rule.gathers for rule in given.rules):
            self._add(Severity.NOTE, "sequence parallelism", next(r for r in given.rules if r.kind is Kind.SEQUENCE
                      or r.gathers), "the proof runs the plan on whole sequences",
                      "tpscope prove --scenarios sequence-parallel runs it in its framework")  # fmt: skip
        order = list(Severity)
        self.findings.sort(key=lambda item: order.index(item.severity))
        return outcome

    def _prove(self, plan: Sharding) -> Outcome:
        return prove(self.model, plan, self.known, self.sample)

    def _add(self, severity: Severity, what: str, rule: Spelled | str, why: str, remedy: str) -> None:
        pattern, line = (rule, 0) if isinstance(rule, str) else (rule.pattern, rule.line)
        self.findings.append(Finding(severity, what, pattern, why, remedy, line))

    def _unmatched(self, plan: Sharding) -> None:
        """Regions of ours that are nowhere in the model, by the name that is not there."""
        names = [name for name, _ in self.model.named_modules()]
        names += [name for name, _ in self.model.named_parameters(remove_duplicate=False)]
        names += [name for name, _ in self.model.named_buffers()]
        for region in plan.regions:
            asked = [*region.exits, *region.entries, *region.shares]
            absent = [pattern for pattern in dict.fromkeys(asked) if not matches(pattern, names)]
            for pattern in absent:
                why = "no module or parameter of the model is called so"
                self._add(Severity.WRONG, "matches nothing", pattern, why, "write the name as the model has it")

    def _tied(self, found: Translation) -> None:
        """Weights that are one tensor under two names and cut under one of them only."""
        cut = set(_cut(self.model, found.plan))
        owners: dict[int, list[str]] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            owners.setdefault(id(parameter), []).append(name)
        for group in owners.values():
            mine = [name for name in group if name in cut]
            if mine and len(mine) < len(group):
                other = next(name for name in group if name not in cut)
                why = f"{mine[0]} and {other} are one tensor, and only one of them is cut"
                rule = _rule(found, mine[0]) or mine[0].rpartition(".")[0]
                self._add(Severity.WRONG, "tied weights cut under one name", rule, why, f"cut {other} the same way")

    def _wrong(self, found: Translation, outcome: Outcome) -> None:
        """Why a plan's numbers are wrong: region by region, by the mend that makes them right."""
        for region in found.plan.regions:
            alone = self._prove(replace(found.plan, regions=(region,)))
            if alone.equal:
                continue
            mended = next(self._mends(found.plan, region, alone), None)
            at = _rule(found, (*region.entries, *region.exits)[0]) or region.exits[0]
            if mended is None:
                why = alone.error or _numbers(alone)
                self._add(
                    Severity.WRONG, "computes something else", at, f"{region.exits[0]}: {why}", "cut it another way"
                )
                continue
            what, remedy, names = mended
            for name in sorted(set(map(wildcard, names))):
                why = f"{name} acts on what several ranks hold slices of; with the remedy the plan is proven"
                rule = _rule(found, name) or (name if found.matched == {} else at)
                self._add(Severity.WRONG, what, rule, why, remedy.format(name))
        if not any(item.severity is Severity.WRONG for item in self.findings):
            why = outcome.error or _numbers(outcome)
            self._add(Severity.WRONG, "the regions do not go together", found.plan.regions[0].exits[0]
                      if found.plan.regions else "", why, "see which of them share a weight")  # fmt: skip

    def _mends(self, plan: Sharding, region: Region, alone: Outcome) -> Iterator[tuple[str, str, list[str]]]:
        """Changes of a region under which it is proven: what was wrong, the remedy, and the parameters."""
        wild = {wildcard(name) for name in alone.wrong}
        loose = {name for name in wild if name not in region.shares or region.shares[name].cut is None}
        tries: list[tuple[str, str, dict[str, Share], list[str]]] = []
        bare = [name for name in loose if not region.shares.get(name, Share()).summed]
        more = {name: Share(summed=True) for name in bare}
        tries.append(("gradient that nobody sums", "add up the gradients of {} over the ranks", more, bare))
        done = [name for name in loose if region.shares.get(name, Share()).summed]
        whole = {name: replace(region.shares[name], summed=False) for name in done}
        tries.append(("gradient summed that is whole already", "leave {} without a sum", whole, done))
        vectors = [name for name, share in region.shares.items() if share.cut is None and not share.summed]
        once = {name: replace(region.shares[name], once=not region.shares[name].once) for name in vectors}
        tries.append(("counted on every rank", "count {} once, on one rank", once, vectors))
        for what, remedy, shares, names in tries:
            if (
                names
                and self._prove(replace(plan, regions=(replace(region, shares={**region.shares, **shares}),))).equal
            ):
                yield what, remedy, names

    def _gathered(self, found: Translation) -> None:
        """Regions that gather what they could keep cut: without the edges they are still proven."""
        for region in found.plan.regions:
            if not region.edges or region.outputs != (0,):
                continue
            if self._prove(replace(found.plan, regions=(replace(region, edges=()),))).equal:
                at = region.edges[0].module
                why = f"{at} gathers and {region.exits[0]} splits again; kept cut between them the plan is proven too"
                remedy = "colwise and rowwise without gather and split" if found.matched else "leave out the edges"
                self._add(Severity.WASTE, "gathered for nothing", _rule(found, at) or at, why, remedy)

    def _twice(self, rules: tuple[Spelled, ...]) -> None:
        """One activation that several rules gather, each for itself."""
        wanted: dict[str, Spelled] = {}
        for rule in rules:
            if rule.gathers:
                wanted |= dict.fromkeys(matches(rule.pattern, [n for n, _ in self.model.named_modules()]), rule)
        inputs: dict[int, list[str]] = {}
        kept: list[Any] = []
        hooks = []
        for name in wanted:

            def seen(module: nn.Module, args: Any, name: str = name) -> None:
                if args and isinstance(args[0], torch.Tensor):
                    kept.append(args[0])
                    inputs.setdefault(id(args[0]), []).append(name)

            hooks.append(self.model.get_submodule(name).register_forward_pre_hook(seen))
        try:
            with torch.no_grad():
                self.sample.output(self.model)
        finally:
            for hook in hooks:
                hook.remove()
        told: set[tuple[str, ...]] = set()
        for group in inputs.values():
            patterns = tuple(dict.fromkeys(wanted[name].pattern for name in group))
            if len(group) > 1 and patterns not in told:
                told.add(patterns)
                why = f"{', '.join(patterns)} read one activation, and each gathers it: {len(group)} gathers for one"
                self._add(Severity.WASTE, "activation gathered more than once", wanted[group[1]], why,
                          "gather it once, in front of the module that they share")  # fmt: skip

    def _head(self, rules: tuple[Spelled, ...], form: str) -> None:
        """A head whose logits are gathered."""
        head: Any = getattr(self.model, "get_output_embeddings", lambda: None)()
        if head is None:
            return
        name = next(n for n, m in self.model.named_modules() if m is head)
        rule = next((r for r in reversed(rules) if matches(r.pattern, [name])), None)
        if rule is None or rule.kind is not Kind.GATHERED:
            return
        vocabulary = head.weight.shape[0]
        if form == "torch":
            why = f"every rank gets all {vocabulary} logits of a token; a loss on slices needs two numbers"
            self._add(Severity.WASTE, "head gathered for nothing", rule, why,
                      "ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)")  # fmt: skip
        else:
            self._add(Severity.NOTE, "head gathered", rule, "the model's own loss in transformers reads whole logits",
                      "tpscope.parallelize keeps them cut")  # fmt: skip

    def _left(self, found: Translation, outcome: Outcome) -> None:
        """Large matrices that the plan leaves whole and the derived plan cuts."""
        mine = set(map(wildcard, _cut(self.model, found.plan)))
        asked = {wildcard(p.pattern) for p in (item.rule for item in found.problems) if p is not None}
        sizes: dict[str, int] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.dim() > 1:
                sizes[wildcard(name)] = sizes.get(wildcard(name), 0) + parameter.numel()
        total = sum(p.numel() for p in self.model.parameters())
        left = {n: size for n, size in sizes.items() if n not in mine and size > LARGE * total}
        if not left:
            return
        derived = set(map(wildcard, _cut(self.model, self.deriver.derive(self.tp))))
        for name, size in sorted(left.items(), key=lambda item: -item[1]):
            if name in derived and name.rpartition(".")[0] not in asked:
                rule = _rule(found, name) or name
                why = f"{name} is whole on every rank, {size / total:.0%} of the small model, and can be cut"
                self._add(Severity.WASTE, "left whole", rule, why, "tpscope plan derives a rule for it")


_REMEDIES = {
    "matches nothing": "write the name as the model has it",
    "its output stays cut": "add the row-parallel rule that takes it up, or gather its output",
    "its input is whole": "cut the modules in front of it, or split its input",
    "unknown style": "use a style of the framework that the file is for",
    "no Linear": "leave the rule out",
    "two rows in one module": "plan the modules apart",
}


def _numbers(outcome: Outcome) -> str:
    worst = sorted(outcome.wrong.items(), key=lambda item: -item[1])[:3]
    shown = ", ".join(f"{name} {error:.2g}" for name, error in worst)
    return f"{len(outcome.wrong)} gradients are wrong, in units of the tolerance: {shown}"


def _cut(model: nn.Module, plan: Sharding) -> list[str]:
    """Names of the parameters that a plan cuts, tied ones under the names that the plan has for them."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    patterns = [name for region in plan.regions for name, share in region.shares.items() if share.cut is not None]
    return [name for pattern in patterns for name in matches(pattern, names)]


def _rule(found: Translation, name: str) -> Spelled | None:
    """The rule that decides about a module or parameter, by name or pattern."""
    for called, rule in found.matched.items():
        if wildcard(called) in (wildcard(name), wildcard(name).rpartition(".")[0]):
            return rule
    return None
