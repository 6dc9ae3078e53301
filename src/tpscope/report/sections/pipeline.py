"""Appendix: pipeline parallelism compared further than section 4 does. Stages, what is in them, schedules, ties."""

from __future__ import annotations

from tpscope.compare.join import canonical
from tpscope.language.verdict import Status
from tpscope.report.experiments.pipeline_rows import Pipeline, Schedule, Stage
from tpscope.report.facts import Study
from tpscope.report.rows import Column, RunRow
from tpscope.report.runs import MESH
from tpscope.report.sections.proofs import proved
from tpscope.report.text import ABSENT, at, code, counted, listed, not_yet, place, table, together

TITLE = "Appendix F: pipeline parallelism"


def section(study: Study) -> list[str]:
    """Who can, stages as they were cut, tensor parallelism inside them, tied embeddings, schedules, proofs."""
    rows = [row for key in study.frameworks for row in study.measured(Pipeline) if row.framework == key]
    lines = ["### Who has it", "", *_answers(study)]
    lines += ["### Stages", ""]
    if not rows:
        return [*lines, not_yet("experiments: pipeline").capitalize() + ".", "", *_proofs(study)]
    commands = listed(f"`{row.command}`" for row in rows)
    first = rows[0]
    lines += [
        f"The framework's own splitter cut the published model on the meta device, pp={first.pp}, tp={first.tp}, "
        f"schedule `{first.schedule}`, once as each pipeline rank of a fake process group. Repeated by {commands}.", "",
    ]  # fmt: skip
    lines += table(
        "What was left of the model in each stage, read off the modules of the stage, and its share of the whole "
        "model's parameters.",
        ["framework", "model", "stage", "pipeline rank", "modules", "parameters", "schedule object"],
        [
            [row.framework, f"`{row.model}`", _named(stage), str(stage.rank), listed(map(code, stage.modules)),
             f"{_share(stage):.1%}", f"`{stage.schedule}`"]
            for row in rows for stage in row.stages
        ],
    )  # fmt: skip
    lines += table(
        "Tensor parallelism inside a stage: parameters of the stage by pattern, and how many patterns lie over `tp` "
        "as they do in the same model without stages.",
        ["framework", "model", "stage", "cut over tp", "whole on every tp rank", "as without stages"],
        [
            [row.framework, f"`{row.model}`", _named(stage), *_placements(study, row, stage)]
            for row in rows for stage in row.stages
        ],
    )  # fmt: skip
    lines += ["### Tied embeddings across stages", ""]
    tied = [row for row in rows if _tied(study, row.model)]
    lines += table(
        "Models whose head is tied to the embedding, which are the first and the last stage's: what the splitter did.",
        ["framework", "model", "answer", "line"],
        [
            [row.framework, f"`{row.model}`", f"{row.error.kind}: {row.error.message}" if row.error else _both(row),
             at(row.error.where) if row.error else ABSENT]
            for row in tied
        ],
    )  # fmt: skip
    lines += _schedules(rows)
    return lines + _proofs(study)


def _answers(study: Study) -> list[str]:
    runs = [run for run in study.of(MESH) if run.question.layout.pp > 1]
    return table(
        "Answers to a layout with a `pp` axis: the axis in the mesh that was built, or the framework's own words.",
        ["framework", "layout", "answer", "line"],
        [[key, str(run.question.layout), *_answer(run, key)] for key in study.frameworks for run in runs],
    )


def _answer(run: RunRow, key: str) -> list[str]:
    column = run.column(key)
    if column is None:
        return ["not asked", ABSENT]
    size = column.mesh.axes.get("pp")
    built = f"pp={size} in its mesh" if size else "no mesh"
    if column.status == Status.OK:
        return [built, ABSENT]
    words = f": {column.error.message}" if column.error else ""
    return [
        f"{built}; **{column.status.value}**{words}",
        at(column.error.where) if column.error and column.error.where else ABSENT,
    ]


def _named(stage: Stage) -> str:
    ends = [word for word, here in (("first", stage.first), ("last", stage.last)) if here]
    return f"{stage.index}" + (f" ({' and '.join(ends)})" if ends else "")


def _share(stage: Stage) -> float:
    return sum(group.numbers for group in stage.parameters) / stage.whole if stage.whole else 0.0


def _placements(study: Study, row: Pipeline, stage: Stage) -> list[str]:
    cut = [group for group in stage.parameters if group.placement != "Replicate()"]
    whole = [group for group in stage.parameters if group.placement == "Replicate()"]
    run = study.plain(row.model)
    column: Column | None = run.column(row.framework) if run else None
    usual = {group.name: group.placement for group in column.parameters} if column else {}
    same = [group for group in stage.parameters if usual.get(canonical(group.name)) == group.placement]
    other = [
        f"`{group.name}` {place(group.placement)}, else {place(usual.get(canonical(group.name), 'not there'))}"
        for group in stage.parameters
        if group not in same
    ]
    compared = f"{len(same)} of {len(stage.parameters)}" + (f"; not {together(other)}" if other else "")
    counts: dict[str, int] = {}
    for group in cut:
        counts[place(group.placement)] = counts.get(place(group.placement), 0) + group.count
    return [
        counted(counts), listed((f"`{group.name}`" for group in whole), "nothing"),
        compared if usual else not_yet("compare"),
    ]  # fmt: skip


def _tied(study: Study, model: str) -> bool:
    run = study.plain(model)
    return run is not None and any(column.head.tied for column in run.answers)


def _both(row: Pipeline) -> str:
    """What became of the tie: which stages hold an end of it."""
    holding = [str(stage.index) for stage in row.stages if any("embed" in one.name for one in stage.parameters)]
    heads = [str(stage.index) for stage in row.stages if any("lm_head" in one.name for one in stage.parameters)]
    return f"cut: the embedding is in stage {listed(holding)}, the head in stage {listed(heads)}"


def _schedules(rows: list[Pipeline]) -> list[str]:
    tried = [(row, schedule) for row in rows for schedule in row.schedules]
    lines = ["### Schedules", ""]
    lines += table(
        "Names of schedules: those that the framework's own source lists as supported, with the line, and those that "
        "torch lists. Each was given to the framework as the schedule of the model above, on pipeline rank 0; what "
        "came of it is the object that was built with the stages on that rank, or what was raised.",
        ["framework", "name", "named by", "comes to", "stages on rank 0"],
        [
            [
                row.framework, f"`{one.name}`", at(one.where) if one.where else "torch",
                _came(one),
                listed(map(str, one.stages), ABSENT),
            ]
            for row, one in tried
        ],
    )  # fmt: skip
    documented = [(row.framework, one) for row, one in tried if one.where]
    for key in dict.fromkeys(name for name, _ in documented):
        mine = [one for name, one in documented if name == key]
        gone = [one for one in mine if not one.runs]
        if gone:
            lines += [
                f"Of the {len(mine)} names that {key} lists as supported, {len(gone)} are not taken: "
                f"{listed(f'`{one.name}`' for one in gone)}.", "",
            ]  # fmt: skip
    return lines


def _came(tried: Schedule) -> str:
    if tried.runs:
        return f"`{tried.runs}`"
    # torch lists the names that it knows after those words: they are rows of the table.
    words = tried.error.message.partition(". The valid options")[0] if tried.error else ""
    return f"**{tried.error.kind}**: {words}" if tried.error else ABSENT


def _proofs(study: Study) -> list[str]:
    return proved(study, ("pp",), "a model under tensor and pipeline parallelism together")
