"""Appendix: the brief's four quality criteria and six review items, each computed from the text and its rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from tpscope.report.citations import Citation, citations
from tpscope.report.experiments.rows import Measured
from tpscope.report.facts import Study, findings, merged
from tpscope.report.rows import SourceRow
from tpscope.report.sections.glossary import undefined
from tpscope.report.sections.terms import TERMS
from tpscope.report.text import anchor, listed, table

TITLE = "Appendix H: quality criteria and review"

_PLACE = re.compile(r"`([\w./-]+\.py):(\d+)`")
_SYMBOL = re.compile(r"`([\w./-]+\.py):([A-Za-z_][\w.]*)`")
_QUOTE = re.compile(r"^- .*?`([\w./-]+):(\d+)`(?: in `[^`]+`)?: (?:`` (.*?) ``|`([^`]*)`)$", re.M)
_COMMAND = re.compile(r"(?:tpscope [a-z]+|python -m tpscope[\w.]*) [^\n`|<>]+")
_GUIDING = re.compile(r"guidance|recommend|improve|migrat", re.I)
# The dimensions that the brief names, and the words by which a heading is known to be about one.
DIMENSIONS = (
    ("architecture and design patterns", r"architecture|design pattern|whose code"),
    ("plan hierarchy and customization", r"hierarchy|plan is looked for|level gave|force a plan|custom"),
    ("model-specific optimizations", r"model-specific|plan of their own|which class"),
    ("DeviceMesh", r"devicemesh|what is built|axes"),
    ("configuration flexibility", r"configuration|settings?|keys"),
    ("code complexity and maintainability", r"complexity|what ran|lines|branches"),
    ("code visibility", r"visib|announce|what ran|where .* stands|files"),
    ("LM head", r"output head|lm head|logits"),
    ("LoRA", r"lora|adapter"),
    ("composition with FSDP2, SP, CP, PP", r"sequence|devicemesh|pipeline|all axes|composition"),
)


@dataclass
class Part:
    """What stands under one heading: titles from the section down to it, and its lines."""

    titles: tuple[str, ...]
    lines: list[str]

    @property
    def tables(self) -> int:
        """How many tables stand there."""
        return sum(line.startswith("|---") for line in self.lines)


class Reading:
    """The text before this appendix, read as a reviewer does, beside the rows that it was made from."""

    def __init__(self, study: Study):
        self.study = study
        self.written = {title: lines for title, lines in study.written.items() if title != TITLE}
        self.text = "\n".join(line for title, lines in self.written.items() for line in [f"## {title}", *lines])

    @cached_property
    def parts(self) -> list[Part]:
        """Every heading with its lines."""
        found: list[Part] = []
        for title, lines in self.written.items():
            found.append(Part((title,), []))
            for line in lines:
                if match := re.match(r"(#{3,4}) (.*)", line):
                    above = found[-1].titles[:1] if len(match[1]) == 3 else found[-1].titles[:2]
                    found.append(Part((*above, match[2]), []))
                else:
                    found[-1].lines.append(line)
        return found

    @cached_property
    def cited(self) -> list[Citation]:
        """Every source line that the rows cite."""
        return citations([*self.study.runs, *self.study.sources, *self.study.experiments])

    @cached_property
    def digested(self) -> set[tuple[str, str]]:
        """Framework and path of every file whose sha256 is recorded."""
        rows: list[SourceRow | Measured] = [*self.study.sources, *self.study.experiments]
        return {(row.framework, file.path) for row in rows for file in row.files}


@dataclass(frozen=True)
class Result:
    """What came of a check: how many of how many hold, in words, and what does not."""

    words: str
    good: int
    of: int
    wrong: tuple[str, ...] = ()

    def __str__(self) -> str:
        verdict = "holds" if self.good == self.of and self.of else "does not hold" if not self.good else "holds in part"
        gone = f"; not: {listed(self.wrong[:5])}" + (" and more" if len(self.wrong) > 5 else "") if self.wrong else ""
        return f"**{verdict}**, {self.good} of {self.of} {self.words}{gone}"


def section(study: Study) -> list[str]:
    """Both tables; results are computed when the study is made."""
    reading = Reading(study)
    lines = table(
        "The quality criteria of the brief. Each result is computed from this text and the rows it was made from; "
        "`tpscope report --check FILE` resolves text, rows and installed sources against each other again.",
        ["criterion", "result", "checked by"],
        [[name, str(check(reading)), words] for name, words, check in CRITERIA],
    )
    return lines + table(
        "The review items of the brief, in the same way.",
        ["item", "result", "checked by"],
        [[name, str(check(reading)), words] for name, words, check in REVIEW],
    )


def accurate(reading: Reading) -> Result:
    """Every cited source line stands in a file whose sha256 was recorded with it."""
    good = [item for item in reading.cited if (item.framework, item.path) in reading.digested]
    gone = [f"`{item.path}`" for item in reading.cited if (item.framework, item.path) not in reading.digested]
    words = f"source lines that the rows cite are in files with a recorded sha256 ({len(reading.digested)} files)"
    return Result(words, len(good), len(reading.cited), tuple(dict.fromkeys(gone)))


def complete(reading: Reading) -> Result:
    """Every section says something that was measured, and nothing is left to a verb that has not run."""
    filled = [title for title, lines in reading.written.items() if any(line.strip() for line in lines)]
    open_ = sorted(set(re.findall(r"[nN]ot measured yet \(([^)]+)\)", reading.text)))
    missing = [f"left to `{verb}`" for verb in open_]
    words = "sections and appendices have content and wait for no verb"
    waiting = [title for title in filled if re.search(r"[nN]ot measured yet", "\n".join(reading.written[title]))]
    return Result(words, len(filled) - len(waiting), len(reading.written), tuple(missing))


def clear(reading: Reading) -> Result:
    """Every table follows a sentence on how it was obtained, and no cell is empty."""
    lines = reading.text.splitlines()
    starts = [index - 1 for index, line in enumerate(lines) if line.startswith("|---")]
    bad = []
    for start in starts:
        before = next((line for line in reversed(lines[:start]) if line.strip() and not line.startswith("<!--")), "")
        rows = [row for row in _rows(lines, start) if any(not cell.strip() for cell in row)]
        if not before.endswith((".", ":")) or rows:
            bad.append(lines[start][:60])
    return Result("tables follow a sentence and have no empty cell", len(starts) - len(bad), len(starts), tuple(bad))


def _rows(lines: list[str], start: int) -> list[list[str]]:
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append(re.split(r"(?<!\\)\|", line.strip()[1:-1]))
    return rows


def actionable(reading: Reading) -> Result:
    """Every finding names the question that shows it, and that question's command is in the rows."""
    known = {item.run for item in findings(reading.study)}
    found = merged(findings(reading.study))
    good = [item for item in found if item.runs and set(item.runs) <= known]
    commands = len(set(_COMMAND.findall(reading.text)))
    words = f"findings name a recorded question that shows them; {commands} commands to repeat what is said"
    return Result(words, len(good), len(found))


def referenced(reading: Reading) -> Result:
    """Every reference to a source line is one that a row has: most with the text of the line, some without."""
    quoted = {item.place for item in reading.cited}
    columns = [column for run in reading.study.runs for column in run.answers]
    bare = {column.selection.function for column in columns} | {cell.at for cell in reading.study.proofs.cells}
    known = quoted | bare | {place.rpartition("/")[2] for place in bare}
    found = [f"{path}:{line}" for path, line in dict.fromkeys(_PLACE.findall(reading.text))]
    gone = [f"`{place}`" for place in found if place not in known]
    symbols = len(set(_SYMBOL.findall(reading.text)))
    words = (
        f"references with path and line are those of rows ({sum(place in quoted for place in found)} of them with the "
        f"text of the line, which `--check` resolves); {symbols} more name a function in place of a line"
    )
    return Result(words, len(found) - len(gone), len(found), tuple(gone))


def covered(reading: Reading) -> Result:
    """Every dimension of the brief has a table under a heading about it."""
    said: list[str] = []
    gone: list[str] = []
    for name, words in DIMENSIONS:
        mine = [part for part in reading.parts if any(re.search(words, title, re.I) for title in part.titles)]
        count = sum(part.tables for part in mine)
        where = listed(part.titles[0].partition(".")[0] for part in mine if part.tables)
        (said if count else gone).append(f"{name}: {count} in {where}" if count else name)
    return Result(f"dimensions have tables ({'; '.join(said)})", len(said), len(DIMENSIONS), tuple(gone))


def exact(reading: Reading) -> Result:
    """Every quoted line is, letter for letter, the line that a row has for its place."""
    known = {(item.path, str(item.line), item.text) for item in reading.cited}
    found = [(path, line, one or other) for path, line, one, other in _QUOTE.findall(reading.text)]
    gone = [f"`{path}:{line}`" for path, line, text in found if (path, line, text) not in known]
    return Result("quoted lines are those of rows, letter for letter", len(found) - len(gone), len(found), tuple(gone))


def following(reading: Reading) -> Result:
    """Every point of guidance names its evidence: a command, a table or section, a recorded name, what is missing."""
    names = {*reading.study.frameworks, *(run.question.model for run in reading.study.runs)}
    points = [
        line
        for part in reading.parts if part.titles[0].startswith("11.") and any(map(_GUIDING.search, part.titles[1:]))
        for line in part.lines if line.startswith("- ")
    ]  # fmt: skip
    based = re.compile(
        "|".join([r"table", r"section", r"ot measured yet", r"tpscope ", *map(re.escape, sorted(names))])
    )
    gone = [line[:60] for line in points if not based.search(line)]
    return Result("points of guidance in section 11 name what they rest on", len(points) - len(gone), len(points),
                  tuple(gone))  # fmt: skip


def navigable(reading: Reading) -> Result:
    """Every link inside the text leads to a heading, and the eleven sections stand in their order."""
    titles = [*reading.written, TITLE]
    anchors = {anchor(title) for part in reading.parts for title in part.titles} | {anchor(TITLE)}
    links = [*(anchor(title) for title in titles), *re.findall(r"\]\(#([^)]+)\)", reading.text)]
    numbers = [int(title.partition(".")[0]) for title in titles if title.partition(".")[0].isdigit()]
    gone = [f"#{link}" for link in links if link not in anchors]
    gone += [] if numbers == list(range(1, 12)) else [f"sections stand as {numbers}"]
    return Result("links of contents and text lead to a heading", len(links) - len(gone), len(links), tuple(gone))


def explained(reading: Reading) -> Result:
    """Every word of the field that occurs is in the glossary."""
    gone = undefined(reading.written)
    used = [term for term in TERMS if term.occurs(reading.text)]
    return Result("terms are explained in the glossary", len(used), len(used) + len(gone), tuple(gone))


Check = Callable[[Reading], Result]
CRITERIA: tuple[tuple[str, str, Check], ...] = (
    (
        "accuracy: all from actual source",
        "every source line that the rows cite, against the recorded digests",
        accurate,
    ),
    ("completeness", "every section and appendix for content and for what is left to a verb", complete),
    ("clarity", "every table for a sentence on how it was obtained and for empty cells", clear),
    ("actionability", "every finding for the question that shows it", actionable),
)
REVIEW: tuple[tuple[str, str, Check], ...] = (
    ("every reference has path and line", "every `path:line` of the text, against the rows", referenced),
    (
        "tables cover the key dimensions",
        "headings about each dimension of the brief, and the tables under them",
        covered,
    ),
    ("quotes are exact", "every quoted line, against the text that the row has for its place", exact),
    (
        "recommendations follow from the analysis",
        "every point of guidance in section 11 for what it rests on",
        following,
    ),
    ("the structure is easy to navigate", "every link, against the headings; the order of the sections", navigable),
    ("technical terms are explained", "a list of words of the field, against the glossary", explained),
)
