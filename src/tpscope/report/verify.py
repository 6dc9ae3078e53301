"""`tpscope report --check`: the text again from the rows, the rows again from the installed sources."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tpscope.errors import UserError
from tpscope.report import advice, build, prove_rows, study
from tpscope.report.build import Recorded
from tpscope.report.citations import Citation, Sources, citations
from tpscope.report.experiments import store

_COMMAND = re.compile(r"\b(?:tpscope (?:compare|prove|recommend) |python -m tpscope\.report\.experiments\.)[^\n`|<>]*")
_PLACE = re.compile(r"`([\w./-]+:\d+)`")


@dataclass
class Problem:
    """Something in a report that does not hold: where (`report.md:12`), what, why."""

    where: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.why}"


@dataclass
class Checked:
    """How many lines, citations, files and runs were resolved, and what did not hold."""

    file: str
    lines: int
    citations: int
    quoted: int
    files: int
    runs: int
    commands: int
    problems: list[Problem] = field(default_factory=list)


def check(path: Path) -> Checked:
    """Check a report against its rows, and its rows against the installed sources. Raises UserError."""
    if not path.is_file():
        raise UserError(f"--check {path}: there is no such file; name the report.md that tpscope report wrote")
    name, recorded, wanted = _recorded(path)
    text = path.read_text(encoding="utf-8")
    rows = [*recorded.rows, *recorded.experiments]
    cited, sources = citations(rows), Sources(rows)
    places = set(_PLACE.findall(text))
    named = list(dict.fromkeys(command.strip() for command in _COMMAND.findall(text)))
    found = Checked(
        str(path), len(text.splitlines()), len(cited), sum(item.place in places for item in cited), sources.files,
        len(build.commands(recorded)) + len(build.experiments(recorded)) + len(recorded.advice), len(named),
    )  # fmt: skip
    found.problems += _sentences(path.name, text, wanted)
    found.problems += _sources(path.name, name, text, cited, sources)
    found.problems += _commands(path.name, text, named, recorded)
    return found


def _recorded(path: Path) -> tuple[str, Recorded, str]:
    """The file with the rows, the rows, and the text that they give."""
    beside = path.with_suffix(".jsonl")
    if beside.is_file():
        recorded = build.read(beside)
        return beside.name, recorded, recorded.page()
    if path.resolve().as_posix().endswith(f"/{study.STUDY}"):
        root = path.resolve().parents[len(Path(study.STUDY).parts) - 1]
        recorded = Recorded(study.recorded(root), prove_rows.read(root), store.read(root), advice.read(root))
        return (
            study.ROWS,
            recorded,
            study.page(recorded.rows, recorded.proofs, recorded.experiments, advised=recorded.advice),
        )
    raise UserError(f"--check {path}: its rows are not beside it ({beside.name}); make the report again")


def _sentences(name: str, text: str, wanted: str) -> list[Problem]:
    """Lines that the rows do not give, and lines that they give and the text lacks."""
    have, want = text.splitlines(), wanted.splitlines()
    found = []
    for kind, start, end, first, last in difflib.SequenceMatcher(None, have, want, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        for number in range(start, end):
            if have[number].strip():
                found.append(
                    Problem(f"{name}:{number + 1}", "sentence without evidence", f"no row gives {have[number]!r}")
                )
        for number in range(first, last):
            if want[number].strip():
                found.append(Problem(f"{name}:{start + 1}", "missing", f"the rows give {want[number]!r}"))
    return found


def _sources(name: str, rows_name: str, text: str, cited: list[Citation], sources: Sources) -> list[Problem]:
    numbers = _first_lines(text)
    why = "is not installed, {} citations cannot be resolved; run: tpscope frameworks install {}"
    found = [
        Problem(rows_name, key, why.format(count, key))
        for key, count in Counter(item.framework for item in cited if sources.gone(item.framework)).items()
    ]  # fmt: skip
    for drift in sources.drifts(cited):
        place = f"{drift.path}:{drift.line}" if drift.line else drift.path
        where = f"{name}:{numbers[place]}" if place in numbers else rows_name
        found.append(Problem(where, f"{drift.framework} {place}", drift.why))
    return found


def _first_lines(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        for place in re.findall(r"`([\w./-]+(?::\d+)?)`", line):
            found.setdefault(place, number)
    return found


def _commands(name: str, text: str, named: list[str], recorded: Recorded) -> list[Problem]:
    """Commands that the text names and that no row was made with."""
    have = build.commands(recorded) | build.experiments(recorded) | build.advised(recorded)
    lines = text.splitlines()
    found = []
    for command in named:
        if command in have or (command.startswith("tpscope prove ") and _proved(command, recorded)):
            continue
        number = next((number for number, line in enumerate(lines, 1) if command in line), 0)
        found.append(Problem(f"{name}:{number}", f"run `{command}`", "no row was recorded with this command"))
    return found


def _proved(command: str, recorded: Recorded) -> bool:
    """True if every cell that a `tpscope prove` command asks for is recorded; a pattern in capitals asks for none."""
    words = command.split()[2:]
    if any(word.isupper() for word in words):
        return True
    values: dict[str, list[str]] = {}
    model = next((word for word in words[:1] if not word.startswith("-")), "")
    for flag, value in pairwise(words):
        if flag.startswith("--"):
            values.setdefault(flag, []).append(value)
    models = [name for name in [model, *",".join(values.get("--models", [])).split(",")] if name]
    scenarios = ",".join(values.get("--scenarios", ["plain"])).split(",")
    proofs = prove_rows.Proofs(recorded.proofs)
    return all(
        proofs.cell(framework, name, scenario)
        for framework in values.get("--with", [])
        for name in models
        for scenario in scenarios
    )
