"""The end of section 2: what choosing a plan costs, and what choosing and applying one consist of, counted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tpscope.language.measured.cost import Costs, Times
from tpscope.render.markdown import table as plain_table
from tpscope.report.experiments.complexity_rows import Complexity, Toggled, Way
from tpscope.report.experiments.cost_rows import Cost
from tpscope.report.facts import Study
from tpscope.report.judges.cost import fastest, share
from tpscope.report.text import ABSENT, at, code, duration, listed, not_yet, percent, table

_LONGEST = 90
_NAMED = 3


def lines(study: Study) -> list[str]:
    """Times; then code, settings, ways to another plan, announcements, patterns."""
    keys = study.frameworks

    def place(row: Cost | Complexity) -> int:
        return keys.index(row.framework) if row.framework in keys else len(keys)

    return [
        *_cost(sorted(study.measured(Cost), key=place)),
        *_complexity(sorted(study.measured(Complexity), key=place)),
    ]


def _cost(rows: Sequence[Cost]) -> list[str]:
    head = ["### What choosing a plan costs", ""]
    found = [(row, row.found) for row in rows if row.found]
    if not found:
        return [*head, f"{not_yet('experiments.cost').capitalize()}.", "", *_failed(rows)]
    loads = [value for row, _ in found for value in row.load]
    text = [
        *head,
        "Each framework's own choice was timed warm, in its own interpreter, on the model as published (on meta), TP="
        f"{found[0][0].tp}; every level was brought about by the change that is named. Beside it, in the same process: "
        "building the model on meta, sharding it on meta by the framework's own application (NeMo's chooses again "
        "within), and one forward and backward of the model shrunk to two layers, unsharded, on the CPU. Times are "
        f"medians, with the fastest and the slowest. The machine's load average was {min(loads):.1f} to "
        f"{max(loads):.1f} on {found[0][0].made.hardware.get('cpus')} processors; since other work falls on a long "
        "call more than on a short one, shares are those of the fastest choice in the fastest step.",
        "",
    ]
    text += table(
        "Every way to a plan, the model's own first: the lines of the framework that it runs, what it takes, and how "
        "much more than the level that takes least.",
        ["framework", "model", "level", "how it was brought about", "rules", "lines", "time", "above the least",
         "of a small step"],
        [
            [row.framework, f"`{row.model}`", level.level, level.how, str(level.rules), str(level.lines),
             _spread(level.times), _above(one, level.times), percent(share(one, level))]
            for row, one in found for level in one.levels
        ],
    )  # fmt: skip
    text += table(
        "The same choice beside what surrounds it, and what a traced step of the training loop, from its forward on, "
        "entered again of the functions that the choice and the application were seen to enter.",
        ["framework", "model", "choice", "building", "applying", "small step", "choice of building and applying",
         "step traced up to", "choice entered again", "application entered again", "calls seen in the step"],
        [
            [row.framework, f"`{row.model}`", duration(one.levels[0].times.median), _spread(one.build),
             _spread(one.apply), _spread(one.step),
             percent(one.levels[0].times.least / (one.build.least + one.apply.least)), one.again.until,
             _again(one.again.chose_again, one.again.chosen), _again(one.again.applied_again, one.again.applied),
             str(one.again.calls)]
            for row, one in found
        ],
    )  # fmt: skip
    left: dict[str, list[str]] = {}
    for row, one in found:
        left.setdefault(row.framework, []).extend(code(name.rpartition(":")[2]) for name in one.again.others)
    kept = [f"{key}: {listed(sorted(set(names)))}" for key, names in left.items() if names]
    if kept:
        text += [
            "Functions of the same files that the step entered and neither the choice nor the application did: "
            f"{'; '.join(kept)}.", "",
        ]  # fmt: skip
    return [*text, *_repeat(rows), *_failed(rows)]


def _spread(times: Times) -> str:
    return f"{duration(times.median)} ({duration(times.least)} to {duration(times.most)})"


def _above(found: Costs, times: Times) -> str:
    more = times.median - fastest(found).times.median
    if not more:
        return ABSENT
    return duration(more) if more >= 1 else "under 1 µs"


def _again(names: Sequence[str], of: int) -> str:
    return f"{len(names)} of {of}" + (f": {listed(code(name) for name in names)}" if names else "")


def _complexity(rows: Sequence[Complexity]) -> list[str]:
    head = ["### How much code chooses and applies", ""]
    if not rows:
        return [*head, f"{not_yet('experiments.complexity').capitalize()}.", ""]
    models = listed(f"`{model}`" for row in rows for model in row.models)
    text = head + table(
        f"Lines that ran for {models}, proof-sized and on meta, in the frameworks' own packages and in those of "
        "Hugging Face that they bring: the choice, then what application ran besides. Branches are the `if`, `for`, "
        "`while`, `try` and `match` statements of the functions that were entered; how many were asked, and how many "
        "went both ways over these models.",
        ["framework", "phase", "plans taken", "lines that ran", "files", "functions", "branches", "asked", "both ways"],
        [
            [row.framework, one.phase, listed(row.models.values()), str(sum(one.lines.values())), _files(one.lines),
             str(one.functions), _branches(one.branches), str(one.reached), str(one.both)]
            for row in rows for one in row.ran
        ],
    )  # fmt: skip
    text += ["### Which settings change the plan", ""]
    text += _table(
        "Each setting was given another value of its type, alone, and the framework asked again: did the chosen plan "
        "or any parameter's placement change? With nothing changed the same came out twice"
        f"{'' if all(row.settings.steady for row in rows if row.settings) else ', but not for all'}.",
        ["framework", "settings of", "tried", "change the plan or a placement", "were refused alone", "change nothing",
         "not tried"],
        [_settings(row) for row in rows if row.settings],
    )  # fmt: skip
    text += ["### What must be touched to have another plan", ""]
    text += _table(
        "Each way was gone with a plan of one rule: the places that had to be touched, and the models (with the level "
        "of their own plan) for which the rule was then in the plan that was applied. A model without a "
        "plan is added in the same ways.",
        ["framework", "kind of change", "places", "touched", "taken for", "not taken for"],
        [
            [row.framework, way.editing, str(len(way.places)), listed(code(place) for place in way.places),
             _models(row, way, True), _models(row, way, False)]
            for row in rows for way in row.ways
        ],
    )  # fmt: skip
    text += ["### What is said about the choice", ""]
    text += _announced(rows)
    text += ["### Patterns of design", ""]
    text += _table(
        "Found in the syntax of the functions and files that ran: a dictionary of functions or classes that they use "
        "(dispatch table), three or more conditions in a row (cascade), a class of which others replace methods "
        "(strategy), and a lookup of a plan by attribute name.",
        ["framework", "pattern", "name", "size", "where", "fragment"],
        [
            [row.framework, one.what, f"`{one.name}`", one.size, at(one.where), code(_short(one.where.text))]
            for row in rows for one in row.patterns
        ],
    )  # fmt: skip
    return [*text, *_repeat(rows), *_failed(rows)]


def _table(sentence: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table, or that there is nothing to put in it: what was looked for was not found."""
    return table(sentence, head, rows) if rows else [f"{sentence} There is none.", ""]


def _files(ran: dict[str, int]) -> str:
    """How many files, and the three of which most lines ran."""
    most = sorted(ran.items(), key=lambda item: -item[1])[:_NAMED]
    more = ", ..." if len(ran) > _NAMED else ""
    return f"{len(ran)} ({listed(f'`{path}` {count}' for path, count in most)}{more})"


def _branches(kinds: dict[str, int]) -> str:
    return f"{sum(kinds.values())} ({listed((f'{count} {kind}' for kind, count in sorted(kinds.items())))})"


def _settings(row: Complexity) -> list[str]:
    assert row.settings is not None
    tried = [one for one in row.settings.toggled if not one.untried]
    changing = [one for one in tried if one.changes]
    refused = [one for one in tried if one.raised and not one.changes]
    names = {one.name for one in (*changing, *refused)}
    found = row.settings.found_by
    if row.settings.stopped:
        found += f" (some may be missing, a statement raised: {listed(row.settings.stopped)})"
    return [
        row.framework, f"`{row.settings.owner}`: {found}", str(len({one.name for one in tried})),
        listed(_changed(row, one) for one in changing),
        "; ".join(dict.fromkeys(f"`{one.name}` ({next(iter(one.raised.values()))})" for one in refused)) or "none",
        listed(f"`{one.name}`" for one in tried if one.name not in names),
        listed(f"`{one.name}`" for one in row.settings.toggled if one.untried),
    ]  # fmt: skip


def _changed(row: Complexity, one: Toggled) -> str:
    models = dict.fromkeys([*one.plan, *one.placements])
    for_ = "" if set(models) >= set(row.models) else f" for {' and '.join(f'`{name}`' for name in models)} only"
    what = "plan" if one.plan else "placements alone"
    return f"`{one.name}` ({what}{for_})"


def _models(row: Complexity, way: Way, taken: bool) -> str:
    names = [name for name, was in way.taken.items() if was is taken]
    return listed((f"`{name}` ({row.models.get(name, ABSENT)})" for name in names), ABSENT)


def _announced(rows: Sequence[Complexity]) -> list[str]:
    sentence = (
        "Every logger was set to its lowest level and every record kept that a line of these packages made. These "
        "name the plan."
    )
    cells = [
        [row.framework, one.phase, one.level, f"`{one.logger}`", at(one.where), code(_short(one.says)),
         listed(f"`{model}`" for model in one.models)]
        for row in rows for one in row.logged if re.search("plan", one.says, re.I)
    ]  # fmt: skip
    silent = [
        row.framework for row in rows
        if not any(one.phase == "choice" and re.search("plan", one.says, re.I) for one in row.logged)
    ]  # fmt: skip
    lines = [sentence, ""]
    if cells:
        head = ["framework", "while", "level", "logger", "line", "it says", "for"]
        lines = [sentence, "", *plain_table(head, cells), ""]
    if silent:
        lines += [f"The choice is not announced at any level by: {listed(silent)}.", ""]
    return lines


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _repeat(rows: Iterable[Cost | Complexity]) -> list[str]:
    return [f"Repeat: {', '.join(dict.fromkeys(code(row.command) for row in rows))}.", ""]


def _failed(rows: Iterable[Cost | Complexity]) -> list[str]:
    said = [f"- {row.framework}: {row.failed}" for row in rows if row.failed]
    return ["What could not be asked:", "", *said, ""] if said else []
