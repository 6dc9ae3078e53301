"""Section 9: what each framework takes from Hugging Face."""

from __future__ import annotations

from tpscope.language.answer import Step
from tpscope.language.verdict import Status
from tpscope.report.facts import Study
from tpscope.report.rows import Column
from tpscope.report.runs import PLAIN
from tpscope.report.sections import edges
from tpscope.report.text import ABSENT, listed, quoted, table

TITLE = "Hugging Face integration"
_ENGINE = (r"tp_plan", r"ALL_PARALLEL_STYLES", r"distribute_module|install_forward|shard_param")


def section(study: Study) -> list[str]:
    """Versions, when the Hugging Face plan is asked, classes, the engine that ran, edge cases."""
    keys = study.frameworks
    lines = table(
        f"From the answers at TP={study.tp}: when the selection asks Hugging Face's plan (found by experiment), "
        "for which models that plan was taken, and whose model classes ran.",
        [
            "framework",
            "transformers",
            "asks Hugging Face's plan when",
            "plan from Hugging Face for",
            "models of transformers' classes",
            "of the framework's own",
        ],
        [_row(study, key) for key in keys],
    )
    lines += table(
        "Where the rules of a Hugging Face plan stand, for each model whose plan came from there.",
        ["model", *keys],
        [
            [f"`{run.question.model}`", *(_where(run.column(key)) for key in keys)]
            for run in study.of(PLAIN)
            if any((column := run.column(key)) and column.selection.level == "hf" for key in keys)
        ],
    )
    lines += table(
        "Files of transformers, accelerate and PEFT in the traces (section 2 says what is traced), in the order in "
        "which they first ran.",
        ["framework", "traced files of Hugging Face"],
        [[key, _files(study, key)] for key in keys],
    )
    run = study.example()
    ran = [line for key in keys if run for line in quoted(_hf(run.column(key)), _ENGINE)]
    if ran:
        lines += ["Lines that ran where a plan came from Hugging Face:", "", *ran, ""]
    return [*lines, *edges.section(study)]


def _hf(column: Column | None) -> Column | None:
    return column if column and column.selection.level == "hf" else None


def _steps(study: Study, key: str) -> list[Step]:
    run = study.example()
    column = run.column(key) if run else None
    return column.selection.order if column else []


def _row(study: Study, key: str) -> list[str]:
    steps = _steps(study, key)
    asked = "; or ".join(step.tried_when for step in steps if step.level == "hf") or ABSENT
    runs = [(run, column) for run in study.of(PLAIN) if (column := run.column(key)) and column.model_class]
    taken = [f"`{run.question.model}`" for run, column in runs if column.selection.level == "hf"]
    theirs = sum(column.model_class.startswith("transformers.") for _, column in runs)
    everything = taken and len(taken) == len(runs)
    return [
        key, study.packages(key).get("transformers", ABSENT), asked,
        f"all {len(runs)} that it sharded" if everything else listed(taken), str(theirs), str(len(runs) - theirs),
    ]  # fmt: skip


def _where(column: Column | None) -> str:
    if column is None or column.selection.level != "hf":
        return f"**{column.status.value}**" if column and column.status != Status.OK else ABSENT
    return f"`{column.selection.function}`"


def _files(study: Study, key: str) -> str:
    paths = [path for column in study.columns(key, PLAIN) for path in column.ran]
    return listed(f"`{path}`" for path in paths if path.startswith(("transformers/", "accelerate/", "peft/")))
