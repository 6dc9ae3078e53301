"""Section 3: in which order each framework asks for a plan, and the plans that came of it."""

from __future__ import annotations

from collections import Counter

from tpscope.compare.join import canonical
from tpscope.language.answer import PlanRow
from tpscope.report.facts import Study
from tpscope.report.rows import Column
from tpscope.report.runs import PLAIN
from tpscope.report.text import ABSENT, code, listed, not_yet, place, plotted, quoted, selection_diagram, table

TITLE = "TP plan definition and hierarchy"
_SELECTION = (
    r"PARALLELIZE_FUNCTIONS",
    r"isinstance\(tp_shard_plan, dict\)",
    r"use_hf_tp_plan",
    r"_tp_plan\b",
    r"tp_plan",
)


def section(study: Study) -> list[str]:
    """The order by experiment, the level for each model, the example's plan, how much it shards."""
    lines = ["### In which order a plan is looked for", ""]
    lines += [
        "Found by experiment, not by reading: every input of the framework's own selection was switched through "
        "its states, alone and together, and the order is read off the outcomes. The thick box gave the plan for "
        "the model of the diagram.",
        "",
    ]  # fmt: skip
    for key in study.frameworks:
        lines += _order(study, key)
    lines += table(
        "Every combination that was run, for the model of the diagrams: which inputs were switched, and how often "
        "each level was chosen.",
        ["framework", "inputs", "combinations", "outcomes"],
        [row for key in study.frameworks if (row := _experiments(study, key))],
    )
    lines += ["### Which level gave the plan", ""]
    lines += table(
        f"The level that the selection of each framework took for each model at TP={study.tp}, and the function or "
        "line that holds the plan.",
        ["model", *study.frameworks],
        [
            [f"`{run.question.model}`", *(_level(run.column(key)) for key in study.frameworks)]
            for run in study.of(PLAIN)
        ],
    )
    lines += ["### The plan for one model", ""]
    lines += _plans(study)
    lines += ["### How much of a model is sharded", "", *plotted("bars")]
    lines += table(
        "Share of all parameters that are cut over `tp`, observed on the sharded model.",
        ["model", *study.frameworks],
        [
            [f"`{run.question.model}`", *(_share(run.column(key)) for key in study.frameworks)]
            for run in study.of(PLAIN)
        ],
    )
    return lines


def _order(study: Study, key: str) -> list[str]:
    run = study.example()
    column = run.column(key) if run else None
    lines = [f"#### {key}", ""]
    if run is None or column is None or not column.selection.order:
        return [*lines, f"{not_yet('compare').capitalize()}.", ""]
    steps = column.selection.order
    shape = [(step.level, step.tried_when) for step in steps]
    answered = [other for other in study.columns(key, PLAIN) if other.selection.order]
    same = sum([(step.level, step.tried_when) for step in other.selection.order] == shape for other in answered)
    lines += [
        f"`{run.question.model}`; the order is the same for {same} of the {len(answered)} models that were answered.",
        "",
    ]
    lines += selection_diagram(steps)
    lines += table(
        "The steps, and what came of each for this model.",
        ["step", "level", "asked when", "outcome"],
        [[str(index), step.level, step.tried_when, step.outcome] for index, step in enumerate(steps, 1)],
    )
    lines += [*quoted(column, _SELECTION), ""]
    return lines


def _experiments(study: Study, key: str) -> list[str]:
    run = study.example()
    column = run.column(key) if run else None
    found = column.selection.experiments if column else []
    if not found:
        return []
    inputs = listed(name for name in found[0] if name != "outcome")
    counts = Counter(item["outcome"] for item in found)
    said = "; ".join(
        f"{count} x {code(outcome) if ' ' in outcome else outcome}" for outcome, count in counts.most_common()
    )
    return [key, inputs, str(len(found)), said]


def _level(column: Column | None) -> str:
    if column is None or not column.selection.level:
        return ABSENT
    where = column.selection.function.rpartition("/")[2]
    return f"{column.selection.level}: `{where}`"


def _share(column: Column | None) -> str:
    return f"{column.sharded_fraction:.1%}" if column and column.parameters else ABSENT


def _plans(study: Study) -> list[str]:
    run = study.example()
    if run is None:
        return [not_yet("compare").capitalize() + ".", ""]
    keys = [key for key in study.frameworks if (column := run.column(key)) and column.plan]
    tables = {key: _by_module(run.column(key)) for key in keys}
    names = dict.fromkeys(name for found in tables.values() for name in found)
    lines = table(
        f"`{run.question.model}` at TP={study.tp}: the style of each module as the framework names it, with the "
        "layouts that it takes and gives, from the rules that decided about a parameter.",
        ["module", *keys],
        [[f"`{name}`", *(_style(tables[key].get(name)) for key in keys)] for name in names],
    )  # fmt: skip
    idle = [
        f"- {key}: {listed(code(name) for name in column.unmatched)}"
        for key in keys
        if (column := run.column(key)) and column.unmatched
    ]
    if idle:
        lines += ["Rules of these plans that match nothing in this model:", "", *idle, ""]
    return lines


def _by_module(column: Column | None) -> dict[str, PlanRow]:
    return {canonical(row.pattern): row for row in column.plan if row.matched} if column else {}


def _style(row: PlanRow | None) -> str:
    if row is None:
        return "no rule"
    if row.input is None and row.output is None:
        return f"`{row.style}`"
    return f"`{row.style}`: {place(row.input or 'any')} to {place(row.output or 'any')}"
