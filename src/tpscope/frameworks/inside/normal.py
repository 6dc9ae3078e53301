"""A framework's own style, an object or a string, as a `Style` of ours; and the table of a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from tpscope.language import style as styles
from tpscope.language.answer import ParameterRow, PlanRow
from tpscope.language.placement import HIDDEN_ALIASES, REPLICATE, Placement
from tpscope.language.plan import Plan, Rule, wildcard
from tpscope.language.style import Style


def normal(value: Any, module: nn.Module | None = None) -> Style:
    """The normal form of a rule's value: a style string of transformers, or a ParallelStyle object."""
    if isinstance(value, str):
        return styles.named(value)
    name = type(value).__name__
    base = next((styles.BY_NAME[cls.__name__] for cls in type(value).__mro__ if cls.__name__ in styles.BY_NAME), None)
    if base is None:
        return styles.unknown(name)
    found = replace(base, name=name, known=name in styles.BY_NAME)
    given, output = _layout(value, "input_layouts"), _layout(value, "output_layouts")
    local = getattr(value, "use_local_output", None)
    if found.kind == "colwise":
        if isinstance(module, nn.Embedding):
            found = styles.hidden_embedding(name, output or REPLICATE)
        else:
            found = styles.colwise(name, given or REPLICATE, output or styles.HIDDEN)
    elif found.kind == "rowwise" or (found.kind == "embedding" and output is not None):
        if isinstance(module, nn.Embedding) or found.kind == "embedding":
            found = styles.vocab_embedding(name, output or REPLICATE)
        else:
            found = styles.rowwise(name, given or styles.HIDDEN, output or REPLICATE)
    return replace(found, local_output=local, known=name in styles.BY_NAME)


def _layout(value: Any, attribute: str) -> Placement | None:
    layouts = getattr(value, attribute, None)
    if not layouts:
        return None
    first = layouts[0] if isinstance(layouts, (tuple, list)) else layouts
    try:
        # `str` of a torch placement is short ("S(1)"), and not what `parse` reads.
        placement = Placement.parse(first if isinstance(first, str) else repr(first))
    except ValueError:
        return None
    return styles.HIDDEN if placement in HIDDEN_ALIASES else placement


def plan_of(raw: dict[str, Any], model: nn.Module, source: str) -> Plan:
    """The plan that a framework holds as a dictionary, as ours. Order kept."""
    modules = dict(model.named_modules())
    by_wildcard: dict[str, nn.Module] = {}
    for name, module in modules.items():
        by_wildcard.setdefault(wildcard(name), module)
    rules = []
    for pattern, value in raw.items():
        rules.append(Rule(pattern, normal(value, modules.get(pattern) or by_wildcard.get(pattern))))
    return Plan(tuple(rules), source)


def rows(plan: Plan, parameters: list[ParameterRow]) -> list[PlanRow]:
    """The plan as a table, with the placements that were observed on the parameters that each rule decided."""
    table = []
    for rule in plan.rules:
        mine = [row for row in parameters if row.rule == rule.pattern]
        style = rule.style
        observed: dict[str, str] = {}
        for row in mine:
            observed[row.name.rpartition(".")[2] if row.name != rule.pattern else row.name] = row.placement
        table.append(
            PlanRow(
                rule.pattern,
                style.name,
                style.kind,
                style.known,
                observed,
                str(style.input) if style.input else None,
                str(style.output) if style.output else None,
                list(style.forward),
                list(style.backward),
                style.gradient.value,
                len(mine),
            )
        )
    return table
