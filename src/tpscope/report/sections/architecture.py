"""Section 2: whose code does what, which files ran, what the ranks exchange, how complex choice and application are."""

from __future__ import annotations

from collections.abc import Callable

from tpscope.report.facts import Study
from tpscope.report.rows import HANDED, SYNCHRONIZED, Column, RunRow
from tpscope.report.runs import ADAPTERS, SEQUENCE
from tpscope.report.sections import complexity
from tpscope.report.sections.flow import COLLECTIVES, by_kind, layers
from tpscope.report.text import ABSENT, chain_diagram, counted, listed, not_yet, plotted, quote, table

TITLE = "Core architecture"
_PHASES = ("forward", "loss", "backward", "loop")


def section(study: Study) -> list[str]:
    """Who does what; what ran; collectives; what choosing costs and consists of."""
    run = study.example()
    if run is None:
        return [not_yet("compare").capitalize() + ".", "", *complexity.lines(study)]
    model, keys = run.question.model, study.frameworks
    lines = ["### Whose code does what", ""]
    lines += table(
        f"From the answers for `{model}` at TP={study.tp}: the objects and functions that took part, as they name "
        "themselves.",
        ["step", *keys],
        [
            ["model class", *(_named(run, key, lambda column: column.model_class) for key in keys)],
            ["plan from", *(_named(run, key, lambda column: column.selection.function) for key in keys)],
            ["mesh by", *(_named(run, key, lambda column: column.mesh.built_by) for key in keys)],
            ["default loss", *(_named(run, key, lambda column: column.head.loss or "") for key in keys)],
            ["LoRA by", *(_adapters(study, key) for key in keys)],
        ],
    )
    cited = [
        quote(item.where, f"{key}, {item.name}: ")
        for key in keys
        for what in (HANDED, SYNCHRONIZED)
        for item in study.cited(key, what)
    ]
    if cited:
        lines += ["Where one part hands over to the next, read in the source:", "", *cited, ""]
    lines += ["### What ran", ""]
    lines += [
        "tpscope traces the files of a framework that choose and apply plans, build the mesh and treat gradients, "
        "not the model's own arithmetic. Files and functions stand in the order in which they first ran.",
        "",
    ]
    for key in keys:
        column = run.column(key)
        if column is None or not column.selection.trail:
            lines += [f"{key}: {not_yet('compare')}.", ""]
            continue
        lines += [f"{key}, while the plan was chosen and, as far as the trace covers it, applied:", ""]
        lines += chain_diagram(_stations(column))
    lines += table(
        "Traced files: their length, read in the installed source, and the most lines of them that ran for one "
        "question.",
        ["framework", "file", "lines in it", "lines that ran"],
        [
            [key, f"`{file.path}`", str(file.lines), str(_ran(study, key, file.path))]
            for key in keys
            if (source := study.source(key))
            for file in source.files
            if _ran(study, key, file.path)
        ],
    )  # fmt: skip
    lines += layers(study)
    lines += ["### What the ranks exchange", ""]
    lines += plotted("stacked")
    lines += table(
        f"Collectives of one step by kind, `{model}`: forward, loss and backward of a two-layer model with the real "
        "head counts, together. The training loop is left out, since some stopped in it. An all-reduce of a tensor "
        "moves about twice the bytes of an all-gather or a reduce-scatter of it.",
        ["question", "framework", *COLLECTIVES],
        by_kind(study),
    )
    lines += table(
        "Collectives that were issued for a two-layer model with the real head counts, from one forward to the "
        "optimizer step, recorded on a fake process group; figures per step of the small model, not of the real "
        "one.",
        ["question", "framework", "forward", "loss", "backward", "training loop"],
        [
            [_asked(one), key, *(counted(column.collectives.get(phase, {})) for phase in _PHASES)]
            for one in [run, *(other for other in study.of(SEQUENCE) if other.question.model == model)]
            for key in keys
            if (column := one.column(key)) and column.collectives
        ],
    )  # fmt: skip
    return [*lines, *complexity.lines(study)]


def _asked(run: RunRow) -> str:
    return f"`{run.question.model}`, {run.question.layout}"


def _named(run: RunRow, key: str, get: Callable[[Column], str]) -> str:
    column = run.column(key)
    value = get(column) if column else ""
    return f"`{value}`" if value else ABSENT


def _adapters(study: Study, key: str) -> str:
    names = [column.lora.applied_by for column in study.columns(key, ADAPTERS) if column.lora.applied_by]
    return f"`{listed(names)}`" if names else not_yet("compare")


def _stations(column: Column) -> list[str]:
    """One box a file, with the first functions that ran in it."""
    functions: dict[str, list[str]] = {}
    for line in column.selection.trail:
        names = functions.setdefault(line.path, [])
        if line.symbol not in names:
            names.append(line.symbol)
    boxes = []
    for path, names in functions.items():
        more = f", {len(names) - 3} more" if len(names) > 3 else ""
        boxes.append(f"{path}<br/>{', '.join(names[:3])}{more}")
    return boxes


def _ran(study: Study, key: str, path: str) -> int:
    return max((column.ran.get(path, 0) for column in study.columns(key)), default=0)
