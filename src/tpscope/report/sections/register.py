"""Appendix E: the register of statements, each with its verdict, what it rests on, and how to repeat it."""

from __future__ import annotations

import re
from collections import Counter

from tpscope.report.facts import Study
from tpscope.report.judges.view import Quoted
from tpscope.report.register import Answered, Judged, Ruling, answered, judged, versions
from tpscope.report.text import at, code, listed, not_yet, table

TITLE = "Appendix E: the statements of January 2026, judged"
_QUOTES = 4


def section(study: Study) -> list[str]:
    """The register in one table, a paragraph a statement, open questions."""
    found = judged(study)
    counts = Counter(item.verdict for item in found)
    lines = [
        "What an earlier study of these frameworks stated after reading them, in January 2026, put to the recorded "
        "rows. Each statement has a criterion that a yes or a no decides; it is asked once for the versions of that "
        f"time (then: {_named(study, False)}) and once for the newest (now: {_named(study, True)}), and the verdict "
        "follows from the two answers: " + listed(f"{counts[ruling]} {ruling.value}" for ruling in Ruling) + ".",
        "",
    ]
    lines += table(
        "The statements, with the first of what the rows say of each; the whole stands below.",
        ["id", "statement", "then", "now", "verdict"],
        [[item.id, item.text, _first(item.then), _first(item.now), f"**{item.verdict.value}**"] for item in found],
    )
    lines += ["### What each verdict rests on", ""]
    for item in found:
        lines += [_paragraph(item), ""]
    lines += ["### Open questions of January 2026", ""]
    asked = answered(study)
    lines += table(
        "The questions that the earlier study left open, with the answers that the rows of their experiments give.",
        ["id", "question", "answer"],
        [[item.id, item.text, f"**{item.verdict}**" if item.verdict else _unanswered(item)] for item in asked],
    )
    for question in asked:
        if question.commands:
            lines += [_answer(question), ""]
    return [*lines, ""]


def _unanswered(item: Answered) -> str:
    return ", ".join(not_yet(verb) for verb in item.verbs)


def _answer(item: Answered) -> str:
    parts = [f"**{item.id}**, {item.verdict or _unanswered(item)}. {item.why}"]
    told = [f"{time}, {words}" for time, words in (("Then", item.then), ("Now", item.now)) if words]
    parts += [f"{words}." for words in told] if item.then != item.now else [f"Then and now, {item.now}."]
    return " ".join([*parts, *_support(item)])


def _named(study: Study, newest: bool) -> str:
    return listed((name for name in versions(study, newest).values() if name), "not asked")


def _first(answer: str) -> str:
    """The first clause of an answer."""
    return re.split(r"; |\. ", answer, maxsplit=1)[0]


def _paragraph(item: Judged) -> str:
    parts = [f"**{item.id}**, {item.verdict.value}. {item.why}"]
    parts += [f"Then, {item.then}. Now, {item.now}."] if item.then != item.now else [f"Then and now, {item.now}."]
    return " ".join([*parts, *_support(item)])


def _support(item: Judged | Answered) -> list[str]:
    """The lines that a verdict rests on, and the command that repeats its experiment."""
    parts = []
    if item.evidence:
        more = f"; {len(item.evidence) - _QUOTES} more" if len(item.evidence) > _QUOTES else ""
        parts.append(f"Lines: {'; '.join(_quote(one) for one in _spread(item.evidence))}{more}.")
    if item.commands:
        others = len(item.commands) - 1
        parts.append(
            f"Repeat: {code(item.commands[0])}" + (f" and {others} more, as in appendix A." if others else ".")
        )
    return parts


def _spread(quotes: tuple[Quoted, ...]) -> list[Quoted]:
    """The first few quotes, every framework version getting its share."""
    seen: Counter[str] = Counter()
    ranked = []
    for index, one in enumerate(quotes):
        ranked.append((seen[one.framework], index))
        seen[one.framework] += 1
    return [quotes[index] for index in sorted(index for _, index in sorted(ranked)[:_QUOTES])]


def _quote(one: Quoted) -> str:
    return f"{one.framework} {at(one.line)} {code(one.line.text)}"
