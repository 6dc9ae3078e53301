"""Section 5: the classes that do the sharding, whose they are, and which of them a plan ever used."""

from __future__ import annotations

from tpscope.language.answer import PlanRow
from tpscope.report.facts import Study, label
from tpscope.report.rows import HF_NAME, HF_STYLE, STYLE, TRANSLATED
from tpscope.report.sections import ports
from tpscope.report.text import at, listed, place, quote, table, together

TITLE = "Custom ParallelStyle classes"


def section(study: Study) -> list[str]:
    """Classes of the frameworks, classes of their transformers, styles in use, and what plain PyTorch has of them."""
    lines = ["### The frameworks' own", ""]
    lines += table(
        "Classes in the framework's own package that descend from PyTorch's ParallelStyle (or from transformers' "
        "TensorParallelLayer), found by reading its source; the last column says in which recorded plans they "
        "stand, as selected.",
        ["framework", "class", "extends", "where", "in the plan of"],
        [
            [key, f"`{item.name}`", f"`{item.value}`", at(item.where), _used(study, key, item.name)]
            for key in study.frameworks
            for item in study.cited(key, STYLE)
        ],
    )  # fmt: skip
    translated = [
        quote(item.where, f"{key}, {item.name}: ") for key in study.frameworks for item in study.cited(key, TRANSLATED)
    ]
    if translated:
        lines += [
            "Where a framework exchanges the styles of a selected plan before it applies them:",
            "",
            *translated,
            "",
        ]
    lines += table(
        "The classes counted; transformers' classes and the names that a plan may use for them are those of the "
        "transformers that each framework brings.",
        [
            "framework",
            "own classes",
            "of them in a recorded plan",
            "classes of its transformers",
            "names for them in transformers",
        ],
        [_counts(study, key) for key in study.frameworks if study.source(key)],
    )
    lines += ["### Styles in use", ""]
    lines += table(
        "Every style that decided about a parameter in a recorded plan: its parameters as they were observed, and "
        "what it communicates, in the normal form that tpscope gives to the styles of all frameworks.",
        ["style", "framework", "parameters", "takes", "gives", "in forward", "in backward", "gradient it asks for"],
        _styles(study),
    )
    return [*lines, *ports.section(study)]


def _used(study: Study, key: str, name: str) -> str:
    runs = [
        label(run)
        for run in study.runs
        if (column := run.column(key)) and any(row.style == name for row in column.plan)
    ]
    return _few(runs) if runs else "no recorded plan"


def _few(runs: list[str]) -> str:
    return together(runs) if len(runs) <= 4 else f"{together(runs[:3])} and {len(runs) - 3} more"


def _counts(study: Study, key: str) -> list[str]:
    own = study.cited(key, STYLE)
    used = [item for item in own if not _used(study, key, item.name).startswith("no ")]
    theirs = {item.name for item in study.cited(key, HF_STYLE)}
    return [key, str(len(own)), str(len(used)), str(len(theirs)), str(len(study.cited(key, HF_NAME)))]


def _styles(study: Study) -> list[list[str]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for key in study.frameworks:
        for column in study.columns(key):
            for row in column.plan:
                if row.matched:
                    groups.setdefault(_normal(row), []).append(key)
    rows = []
    for (name, *facts), keys in sorted(groups.items(), key=lambda item: item[0]):
        rows.append([f"`{name}`", listed(keys), *facts])
    return rows


def _normal(row: PlanRow) -> tuple[str, ...]:
    placed = listed(
        (f"{name.rpartition('.')[2]}: {place(value)}" for name, value in row.placements.items() if "lora" not in name),
        "-",
    )
    if not row.known:
        return (row.style, placed, "no normal form in tpscope", *["-"] * 4)
    return (
        row.style, placed, place(row.input or "any"), place(row.output or "as it is"),
        listed(row.forward), listed(row.backward), row.gradient,
    )  # fmt: skip
