"""Section 7: what becomes of sequence parallelism when it is asked for."""

from __future__ import annotations

from tpscope.language.verdict import Status
from tpscope.report.facts import Study
from tpscope.report.rows import Column, RunRow
from tpscope.report.runs import SEQUENCE
from tpscope.report.sections.proofs import proved
from tpscope.report.text import ABSENT, at, counted, listed, not_yet, quoted, table

TITLE = "Sequence parallelism"
_KINDS = ("sequence_parallel", "sequence_parallel_all_gather", "rotary")


def section(study: Study) -> list[str]:
    """Honoured, ignored or refused; rules; collectives with and without; proofs."""
    runs = study.of(SEQUENCE)
    if not runs:
        return [not_yet("compare").capitalize() + ".", ""]
    lines = table(
        f"Asked for with TP={study.tp}: what each framework did, told by the rules of its plan that keep "
        "activations sharded over the sequence, by what it left aside, and by what it raised.",
        ["model", *study.frameworks],
        [[f"`{run.question.model}`", *(_fate(run.column(key)) for key in study.frameworks)] for run in runs],
    )
    lines += table(
        "In the words of the answers: settings that were left aside without an error, and errors with the line "
        "that raised them.",
        ["framework", "models", "words", "line"],
        _words(study, runs),
    )
    lines += ["### Rules that shard the sequence", ""]
    lines += table(
        "Rules of the plans in force whose activations leave sharded over the sequence (dimension 1), by style.",
        ["model", "framework", "style", "modules", "in forward", "in backward"],
        [
            [f"`{run.question.model}`", key, f"`{style}`", listed(f"`{name}`" for name in names), *collectives]
            for run in runs
            for key in study.frameworks
            if (column := run.column(key))
            for (style, *collectives), names in _sequence_rules(column).items()
        ],
    )
    ran = [
        line
        for run in runs
        for key in study.newest()
        for line in quoted(run.column(key), (r"SequenceParallel\w*\(", r"output_layouts=Shard\(1\)"), 2)
    ]
    if ran:
        lines += ["Lines of the newest versions that ran and name such a style or layout:", "", *dict.fromkeys(ran), ""]
    lines += ["### What it changes on the wire", ""]
    lines += table(
        "Collectives in forward and backward of the two-layer model without and with the setting, where both were "
        "observed.",
        ["model", "framework", "forward without", "forward with", "backward without", "backward with"],
        [row for run in runs for key in study.frameworks if (row := pair(study, run, key))],
    )
    return lines + proved(study, ("sequence-parallel",), "a model under sequence parallelism")


def _sequence_rules(column: Column) -> dict[tuple[str, str, str], list[str]]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in column.plan:
        if row.pattern in column.unmatched:
            continue
        if row.kind in _KINDS or row.output == "Shard(dim=1)":
            found.setdefault((row.style, listed(row.forward), listed(row.backward)), []).append(row.pattern)
    return found


def _fate(column: Column | None) -> str:
    if column is None:
        return "not asked"
    if column.status != Status.OK:
        return f"**{column.status.value}**" + (f" in {column.error.phase}" if column.error else "")
    if any(item["setting"] == "sequence_parallel" for item in column.ignored):
        return "**ignored**"
    rules = sum(len(names) for names in _sequence_rules(column).values())
    return f"done, by {rules} rules" if rules else "no rule shards the sequence"


def _words(study: Study, runs: list[RunRow]) -> list[list[str]]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for key in study.frameworks:
        for run in runs:
            column = run.column(key)
            if column is None:
                continue
            said = [(item["what"], ABSENT) for item in column.ignored if item["setting"] == "sequence_parallel"]
            if column.error is not None:
                said.append((f"{column.error.kind}: {column.error.message}", at(column.error.where)))
            for words, where in said:
                groups.setdefault((key, words, where), []).append(f"`{run.question.model}`")
    return [[key, listed(models), words, where] for (key, words, where), models in groups.items()]


def pair(study: Study, run: RunRow, key: str) -> list[str]:
    """Collectives of a run beside those of the plain run of its model; empty where one of them was not observed."""
    plain = study.plain(run.question.model)
    without, with_ = (plain.column(key) if plain else None), run.column(key)
    if without is None or with_ is None or not without.collectives or not with_.collectives:
        return []
    cells = [
        counted(column.collectives.get(phase, {})) for phase in ("forward", "backward") for column in (without, with_)
    ]
    return [f"`{run.question.model}`", key, *cells]
