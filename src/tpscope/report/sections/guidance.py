"""The part of section 11 that says which framework to take: answers of `tpscope recommend` to typical questions."""

from __future__ import annotations

from collections.abc import Sequence

from tpscope.recommend.rank import fraction
from tpscope.recommend.result import Standing
from tpscope.report.advice import Advice, Tried
from tpscope.report.experiments.price_rows import Price
from tpscope.report.facts import Study
from tpscope.report.guidance import Reader, readers
from tpscope.report.text import ABSENT, code, listed, not_yet, table, together

NOBODY = "nothing is recommended"


def guidance(study: Study) -> list[str]:
    """Who is advised what, reader by reader: the winner, why, what would change it, the command."""
    if not study.advice:
        return [
            f'Which framework for which model and machine: {not_yet("recommend")}. Until then, take the table "Clear '
            'of findings" for the model at hand and repeat its comparison with the configuration at hand.',
            "",
        ]
    told = [(reader, [row for row in study.advice if row.reader == reader.title]) for reader in readers()]
    told = [(reader, rows) for reader, rows in told if rows]
    lines = [
        "What `tpscope recommend` answers to typical questions. A candidate is the newest known version of a "
        "framework, at the layout that the command's rules give; it is proved in every way that its config implies "
        "(small models of the same structure, on a CPU), is out at the first that is not equal, and is recommended "
        f"only if `tpscope check` passes the config that is handed out with it. Memory and time: {_costs(study)}. "
        "Ask again for your own model and number of ranks.",
        "",
    ]
    lines += table(
        "The answers in short, by kind of reader.",
        ["reader", "after", "recommended", "questions"],
        [[reader.title, reader.after, _short(rows), str(len(rows))] for reader, rows in told],
    )
    for reader, rows in told:
        lines += _reader(reader, rows)
    return lines


def _costs(study: Study) -> str:
    priced = "not weighed; the performance prediction matrix of this section has them"
    return priced if study.measured(Price) else not_yet("price")


def _short(rows: Sequence[Advice]) -> str:
    winners = [row.winner or NOBODY for row in rows]
    return listed(f"{name} ({winners.count(name)} of {len(winners)})" for name in winners)


def _reader(reader: Reader, rows: Sequence[Advice]) -> list[str]:
    lines = [f"#### {reader.title.capitalize()}: {reader.after}", ""]
    lines += table(
        "The winner and why, with the layout; sharded is the part of the parameters that is sharded over tp.",
        ["model", "asked", "recommended", "plan, sharded", "why", "its config"],
        [_winner(row) for row in rows],
    )
    others = [(row, item) for row in rows for item in row.tried if item.standing is not Standing.RECOMMENDED]
    if others:
        lines += table(
            "The other candidates.",
            ["model", "candidate", "standing", "equal", "why", "known as"],
            [_other(row, item) for row, item in others],
        )
    changes = _changes(rows)
    if changes:
        lines += ["What would change the answer:", "", *changes, ""]
    return [*lines, f"Asked with {together(code(row.command) for row in rows)}.", ""]


def _winner(row: Advice) -> list[str]:
    asked = listed([f"{row.world} ranks" + (f" ({row.hardware})" if row.hardware else ""), *row.wishes])
    chosen = row.chosen
    if chosen is None:
        return [f"`{row.model}`", asked, f"**{NOBODY}**", ABSENT, f"nearest: {row.nearest}", ABSENT]
    checked = f"`tpscope check`: {row.checked}, " + (
        together(row.found) if row.found else "nothing to change was found"
    )
    return [f"`{row.model}`", asked, f"{chosen.framework}, {chosen.layout}", _plan(chosen), chosen.reason, checked]


def _plan(item: Tried) -> str:
    return ABSENT if item.sharded_fraction is None else f"{item.level or 'none'}, {fraction(item.sharded_fraction)}"


def _other(row: Advice, item: Tried) -> list[str]:
    return [
        f"`{row.model}`", f"{item.framework}, {item.layout}", item.standing.value, f"{item.equal} of {len(item.ways)}",
        item.reason, listed((f"`bugs/{name}`" for name in item.bugs), ABSENT),
    ]  # fmt: skip


def _changes(rows: Sequence[Advice]) -> list[str]:
    """Each change once, with the models that it is about where that is not all of them."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for change in [*row.changes, *(row.mends if row.winner is None else [])]:
            found.setdefault(change, []).append(row.model)
    every = list(dict.fromkeys(row.model for row in rows))
    return [
        f"- {change}"
        if list(dict.fromkeys(models)) == every
        else f"- {listed(f'`{name}`' for name in models)}: {change}"
        for change, models in found.items()
    ]
