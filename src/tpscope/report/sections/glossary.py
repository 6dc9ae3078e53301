"""Appendix: every technical term of the study, in words of our own, with the section that uses it first."""

from __future__ import annotations

import re

from tpscope.report.facts import Study
from tpscope.report.sections.terms import TERMS, WORDS, Term
from tpscope.report.text import anchor, table

TITLE = "Appendix G: glossary"


def section(study: Study) -> list[str]:
    """The terms that the sections before this one use, in the order of the alphabet."""
    rows = [
        [term.name, term.meaning, f"[{title}](#{anchor(title)})"]
        for term in sorted(TERMS, key=lambda term: term.name.lower().strip("`_"))
        if (title := first_use(term, study.written))
    ]
    return table(
        "Terms that occur in this study. The last column is found in the text: the first section that has the word.",
        ["term", "meaning", "first used in"], rows,
    )  # fmt: skip


def first_use(term: Term, written: dict[str, list[str]]) -> str:
    """The title of the first section with the term, empty if none has it."""
    for title, lines in written.items():
        if title != TITLE and term.occurs("\n".join([title, *lines])):
            return title
    # A term that only the meanings of others use is explained all the same.
    others = "\n".join(other.meaning for other in TERMS if other is not term)
    return TITLE if TITLE not in written and term.occurs(others) and written else ""


def undefined(written: dict[str, list[str]]) -> list[str]:
    """Words of the field that the study uses and no term explains."""
    text = "\n".join(line for title, lines in written.items() if title != TITLE for line in [title, *lines])
    # A word with capitals is itself only with them: ZeRO is not zero.
    used = [word for word in WORDS if re.search(rf"(?<![\w-]){word}(?![\w-])", text, re.I if word.islower() else 0)]
    return [word for word in used if not any(term.occurs(word) for term in TERMS)]
