"""Section 6: what each framework does for one model and not for another: classes, registries, heads, gradients."""

from __future__ import annotations

from tpscope.language.style import named
from tpscope.language.verdict import Status
from tpscope.report.facts import Study, blamed
from tpscope.report.rows import REGISTERED, Column, Group, RunRow
from tpscope.report.runs import PLAIN
from tpscope.report.sections.proofs import by_model, by_way, proved
from tpscope.report.text import ABSENT, at, listed, not_yet, place, table

TITLE = "Model-specific optimizations"


def section(study: Study) -> list[str]:
    """Model classes, the registry, the output head, parameters whose gradients need care, what stays whole."""
    keys, runs = study.frameworks, study.of(PLAIN)
    lines = ["### Which class runs", ""]
    lines += table(
        "The class of the model object that was built, as the framework's own resolver chose it.",
        ["model", *keys],
        [[f"`{run.question.model}`", *(_class(run.column(key)) for key in keys)] for run in runs],
    )
    lines += ["### Classes with a plan of their own", ""]
    lines += _registries(study)
    lines += ["### The output head", ""]
    lines += table(
        "Style and output layout by the plan, then who gathers the logits over `tp`: the plan itself, the "
        "framework's default loss (observed on the two-layer model), or nobody.",
        ["model", *keys],
        [[f"`{run.question.model}`", *(_head(run.column(key)) for key in keys)] for run in runs],
    )
    lines += _gathers(study)
    lines += table(
        "Models whose config ties the head to the embedding: whether they still are one parameter after sharding.",
        ["model", *keys],
        [[f"`{run.question.model}`", *(_tie(run.column(key)) for key in keys)] for run in runs if _tied(run, keys)],
    )
    lines += ["### Replicated parameters whose gradients differ", ""]
    lines += table(
        "What the plan marks, and what then happened to the gradient over `tp` up to the optimizer step of the "
        "framework's own training loop, for parameters on which the frameworks do not agree or that a plan marks.",
        ["models", "parameters", *keys],
        _disputes(study, runs, keys),
    )
    lines += ["### What every rank holds whole", ""]
    lines += table(
        "Parameters of more than one percent of the model that are not cut over `tp`.",
        ["model", *keys],
        [[f"`{run.question.model}`", *(_whole(run, key) for key in keys)] for run in runs],
    )
    idle = [
        [f"`{run.question.model}`", key, f"`{style}`", listed(patterns)]
        for run in runs
        for key in keys
        if (column := run.column(key))
        for style, patterns in _idle(column).items()
    ]
    if idle:
        lines += table(
            "Rules whose style cuts a parameter, whose pattern names parameters of the model, and which left them "
            "whole.",
            ["model", "framework", "style", "rules without effect"],
            idle,
        )
    lines += proved(study, ("plain",), "a sharded model")
    return lines + (by_way(study) + by_model(study) if study.proofs.cells else [])


def _class(column: Column | None) -> str:
    if column is None or not column.model_class:
        return ABSENT
    package, _, _ = column.model_class.partition(".")
    return f"`{column.model_class.rpartition('.')[2]}` of {package}"


def _registries(study: Study) -> list[str]:
    lines = table(
        "Entries of the framework's table from model classes to plan functions, and model folders of its "
        "transformers whose configuration defines a `base_model_tp_plan`; read in the installed source.",
        [
            "framework",
            "classes in its own table",
            "plan functions",
            "where",
            "configurations with a plan in its transformers",
        ],
        [_registry(study, key) for key in study.frameworks if study.source(key)],
    )
    for versions in study.families().values():
        names = {key: [item.name for item in study.cited(key, REGISTERED)] for key in versions}
        if any(names.values()) and len(versions) > 1:
            old, new = ({name.rpartition(".")[2] for name in names[key]} for key in (versions[0], versions[-1]))
            lines += [
                f"In {versions[-1]} and not in {versions[0]}, by class name: "
                f"{listed(f'`{name}`' for name in sorted(new - old))}. In {versions[0]} and not in {versions[-1]}: "
                f"{listed(f'`{name}`' for name in sorted(old - new))}.",
                "",
            ]
    return lines


def _registry(study: Study, key: str) -> list[str]:
    found = study.cited(key, REGISTERED)
    source = study.source(key)
    assert source is not None
    functions = {item.value for item in found}
    where = at(found[0].where) if found else ABSENT
    return [key, str(len(found)), str(len(functions)), where, str(len(source.plans_of_configs))]


def _head(column: Column | None) -> str:
    if column is None or column.status != Status.OK:
        return ABSENT
    head = column.head
    if not head.style:
        weight = _group(column, "lm_head.weight")
        return "no rule" + ("; whole on every rank" if weight and weight.placement == "Replicate()" else "")
    return f"`{head.style}` to {place(head.plan_output or 'any')}; gathered by {head.gathered_by or 'nobody'}"


def _gathers(study: Study) -> list[str]:
    lines = []
    for key in study.frameworks:
        where = next((column.head.where for column in study.columns(key, PLAIN) if column.head.where), None)
        if where is not None:
            lines.append(f"- {key}: {at(where)} in `{where.symbol}`: `{where.text}`")
    return ["The line of the default loss that gathers:", "", *lines, ""] if lines else []


def _tied(run: RunRow, keys: list[str]) -> bool:
    return any((column := run.column(key)) and column.head.tied for key in keys)


def _tie(column: Column | None) -> str:
    if column is None or column.head.tied_after is None:
        return f"**{column.status.value}**" if column and column.status != Status.OK else ABSENT
    return "one parameter" if column.head.tied_after else "**two parameters**"


def _disputed(run: RunRow) -> list[str]:
    """Names of replicated parameters that are summed by one column and not by another, or marked by a plan."""
    found: dict[str, set[str]] = {}
    marked = set()
    for column in run.answers:
        for group in column.parameters:
            if group.placement == "Replicate()":
                found.setdefault(group.name, set()).add(group.gradient_loop)
                marked |= {group.name} if group.gradient in ("sum", "mean") else set()
    return [name for name, loops in found.items() if name in marked or len(loops - {"unobserved"}) > 1]


def _disputes(study: Study, runs: list[RunRow], keys: list[str]) -> list[list[str]]:
    """One row for all parameters that fare alike, and for all models in which they do."""
    models: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        names: dict[tuple[str, ...], list[str]] = {}
        for name in _disputed(run):
            cells = tuple(_gradient(study, run, key, name) for key in keys)
            names.setdefault(cells, []).append(f"`{name}`")
        for cells, alike in names.items():
            models.setdefault((listed(alike), *cells), []).append(f"`{run.question.model}`")
    return [[listed(found), *facts] for facts, found in models.items()]


def _group(column: Column | None, name: str) -> Group | None:
    return next((group for group in column.parameters if group.name == name), None) if column else None


def _gradient(study: Study, run: RunRow, key: str, name: str) -> str:
    column = run.column(key)
    group = _group(column, name)
    if group is None:
        return f"**{column.status.value}**" if column and column.status != Status.OK else ABSENT
    if group.placement != "Replicate()":
        return place(group.placement)
    loop = group.gradient_loop
    if loop == "unobserved":
        proof = study.proofs.cell(key, run.question.model)
        loop = f"unobserved; the proof says {proof.verdict.value}" if proof else not_yet("prove")
    return f"marked {group.gradient}, then {loop}"


def _whole(run: RunRow, key: str) -> str:
    column = run.column(key)
    if column is None or not column.parameters:
        return ABSENT
    for difference in run.differences:
        if difference.subject == "left unsharded" and key in blamed(difference):
            share = difference.meaning.rpartition(": ")[2].partition(" ")[0]
            return f"{difference.values[key]} ({share})"
    return "nothing"


def _idle(column: Column) -> dict[str, list[str]]:
    """Rules that cut, by their style, and whose parameters are whole all the same."""
    found: dict[str, list[str]] = {}
    for row in column.plan:
        cuts = any(placement.sharded for placement in named(row.style).parameters.values())
        if row.matched and cuts and set(row.placements.values()) == {"Replicate()"}:
            found.setdefault(row.style, []).append(f"`{row.pattern}`")
    return found
