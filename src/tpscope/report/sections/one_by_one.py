"""Appendix: one chapter a model, with everything that the rows say of it: class, plan, head, training, proofs, bugs."""

from __future__ import annotations

from collections.abc import Callable

from tpscope.language.verdict import Status, Verdict
from tpscope.report.facts import Study, harm, joined_subjects, standing
from tpscope.report.prove_rows import Cell
from tpscope.report.rows import Column, RunRow
from tpscope.report.runs import ADAPTERS, PLAIN, SEQUENCE, WIDE
from tpscope.report.sections.models import class_of, head_of, whole
from tpscope.report.text import ABSENT, at, code, counted, listed, not_yet, table, together

TITLE = "Appendix G: the models, one by one"
_ELSEWHERE = ((WIDE, "at {}"), (SEQUENCE, "with sequence parallel"), (ADAPTERS, "with LoRA"))


def section(study: Study) -> list[str]:
    """A chapter for every model that was asked at the first tp size."""
    lines = [
        f"What the sections say of each model, put together: at TP={study.tp} if a row does not say otherwise. The "
        "words are those of the sections; proofs are of a small model of the same structure.",
        "",
    ]
    for run in study.of(PLAIN):
        lines += [f"### {run.question.model}", "", *_chapter(study, run)]
    return lines


def _chapter(study: Study, run: RunRow) -> list[str]:
    keys = [answer.id for answer in run.answers]
    name = run.question.model
    facts: list[tuple[str, Callable[[str, Column], str]]] = [
        ("outcome", lambda key, column: standing(run, key)),
        ("class that runs", lambda key, column: class_of(column)),
        ("plan from", lambda key, column: _source(column)),
        ("sharded over tp", lambda key, column: f"{column.sharded_fraction:.1%}" if column.parameters else ABSENT),
        ("whole on every rank", lambda key, column: whole(run, key)),
        ("output head", lambda key, column: head_of(column)),
        ("collectives of two layers, forward", lambda key, column: _traffic(column, "forward")),
        ("backward", lambda key, column: _traffic(column, "backward")),
        ("speaks against it", lambda key, column: _against(run, key)),
    ]
    rows = [[what, *(cell(answer.id, answer) for answer in run.answers)] for what, cell in facts]
    for kind, words in _ELSEWHERE:
        other = next((row for row in study.of(kind) if row.question.model == name), None)
        if other is not None:
            rows.append([words.format(other.question.layout), *(standing(other, key) for key in keys)])
    asked = run.question
    lines = table(f"`{asked.architecture or name}`, asked with `{run.command}`.", ["what", *keys], rows)
    return lines + _proofs(study, name, keys)


def _source(column: Column) -> str:
    selection = column.selection
    if column.status != Status.OK or not selection.level:
        return ABSENT
    rules = f"{len(column.plan)} rules" if len(column.plan) != 1 else "1 rule"
    last = selection.trail[-1] if selection.trail else None
    return f"{selection.level}, {rules}; {at(last)}" if last else f"{selection.level}, {rules}"


def _traffic(column: Column, phase: str) -> str:
    return counted(column.collectives[phase]) if phase in column.collectives else ABSENT


def _against(run: RunRow, key: str) -> str:
    found: dict[str, list[str]] = {}
    for item in harm(run, key):
        found.setdefault(item.severity.value, []).append(item.subject)
    return together(f"{severity}: {joined_subjects(subjects)}" for severity, subjects in found.items()) if found else (
        "nothing found"
    )  # fmt: skip


def _proofs(study: Study, model: str, keys: list[str]) -> list[str]:
    cells = [cell for cell in study.proofs.cells if cell.model == model and cell.framework in keys]
    if not cells:
        return [f"Proofs of it: {not_yet('prove')}.", ""]
    ways = list(dict.fromkeys(cell.scenario for cell in cells))
    rows = [[way, *(_verdict(study.proofs.cell(key, model, way)) for key in keys)] for way in ways]
    lines = table("Proofs, by the way in which it is trained, with the cause of what is different.",
                  ["way to train", *keys], rows)  # fmt: skip
    entries = listed((f"`bugs/{name}`" for cell in cells for name in cell.bugs), "")
    return lines + ([f"Known as: {entries}.", ""] if entries else [])


def _verdict(cell: Cell | None) -> str:
    if cell is None:
        return ABSENT
    if cell.verdict == Verdict.DIFFERENT:
        return f"**different**: {listed(cell.causes, 'no cause named')}"
    if cell.verdict == Verdict.CRASHED and cell.said:
        return f"crashed: {code(cell.said.partition(':')[0])}"
    return cell.verdict.value
