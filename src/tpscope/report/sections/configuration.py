"""Section 10: what a user can set, what was refused, and what was left aside without a word."""

from __future__ import annotations

from collections.abc import Sequence

from tpscope.language.verdict import Status
from tpscope.report.facts import Study, label
from tpscope.report.rows import HANDED, SETTING, Cited
from tpscope.report.text import ABSENT, at, code, listed, not_yet, table, together

TITLE = "Configuration and flexibility"


def section(study: Study) -> list[str]:
    """Settings by version, where a plan of one's own goes in, refusals, ignored settings."""
    lines = ["### Settings", ""]
    for family, versions in study.families().items():
        found = {key: {item.name: item for item in study.cited(key, SETTING)} for key in versions}
        names = dict.fromkeys(name for items in found.values() for name in items)
        lines += table(
            f"Fields of {family}'s configuration classes that size an axis, choose a plan or turn a parallelism on: "
            "name and type, and where each version has them; read in the installed source.",
            ["setting", *versions],
            [[f"`{name}`", *(_setting(found[key].get(name)) for key in versions)] for name in names],
        )
    lines += ["### A plan of one's own", ""]
    lines += table(
        "Whether a plan of the user's wins, by the experiments of section 3: offered alone, and in all "
        "combinations with the other sources; where there is no such input, the line that says what is passed on "
        "instead.",
        ["framework", "an input of the selection", "level when offered alone", "level in all combinations"],
        [_custom(study, key) for key in study.frameworks],
    )
    lines += ["### What was refused or is not there", ""]
    lines += table(
        "Every recorded question that ended in `refused` or `unsupported`: the framework's own words where it "
        "raised, and the line.",
        ["framework", "answer", "words", "line", "asked"],
        _grouped(study, (Status.REFUSED, Status.UNSUPPORTED)),
    )
    lines += ["### What was left aside without an error", ""]
    lines += table(
        "Settings that were asked for, had no effect in the answer, and raised nothing.",
        ["framework", "setting", "what is known", "asked"],
        _ignored(study),
    )
    lines += ["### What crashed", ""]
    lines += table(
        "Every recorded question that ended in `crashed`: raised by code that ran into something, not on purpose. "
        "For torch outside a declared range see appendix C.",
        ["framework", "answer", "words", "line", "asked"],
        _grouped(study, (Status.CRASHED,)),
    )
    return lines


def _setting(item: Cited | None) -> str:
    if item is None:
        return "no such field"
    return f"`{item.value}`, {at(item.where)}"


def _custom(study: Study, key: str) -> list[str]:
    run = study.example()
    column = run.column(key) if run else None
    found = column.selection.experiments if column else []
    if not found:
        return [key, *[not_yet("compare")] * 3]
    if "custom" not in found[0]:
        passed = listed(
            (f"{at(item.where)}: {code(item.where.text)}" for item in study.cited(key, HANDED)), "no line known"
        )
        return [key, f"no; {passed}", ABSENT, ABSENT]
    neutral = {name: found[0][name] for name in found[0] if name not in ("outcome", "custom")}
    alone = next(
        (item["outcome"] for item in found if item["custom"] == "given" and neutral.items() <= item.items()), "-"
    )
    given = [item["outcome"] for item in found if item["custom"] == "given"]
    return [key, "yes", alone, f"custom in {sum(outcome == 'custom' for outcome in given)} of {len(given)}"]


def _grouped(study: Study, statuses: Sequence[Status]) -> list[list[str]]:
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for run in study.runs:
        for column in run.answers:
            if column.status in statuses and column.error is not None:
                words = f"{column.error.kind}: {column.error.message}"
                groups.setdefault((column.id, column.status.value, words, at(column.error.where)), []).append(
                    label(run)
                )
    rows = [[*facts, together(runs)] for facts, runs in groups.items()]
    return sorted(rows, key=lambda row: study.frameworks.index(row[0]))


def _ignored(study: Study) -> list[list[str]]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for run in study.runs:
        for column in run.answers:
            for item in column.ignored:
                groups.setdefault((column.id, code(item["setting"]), item["what"]), []).append(label(run))
    rows = [[*facts, together(runs)] for facts, runs in groups.items()]
    return sorted(rows, key=lambda row: study.frameworks.index(row[0]))
