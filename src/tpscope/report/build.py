"""`tpscope report`: the rows of a set of runs, and the pages that are made from them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tpscope.errors import UserError
from tpscope.frameworks import registry
from tpscope.models.read import read as read_model
from tpscope.report import advice, prove_rows, rows, study
from tpscope.report.advice import Advice
from tpscope.report.experiments import store
from tpscope.report.experiments.rows import Measured
from tpscope.report.rows import Row, RunRow
from tpscope.report.runs import REPORT, Set

ROWS, MARKDOWN, HTML = "report.jsonl", "report.md", "report.html"
MADE = "Made from report.jsonl by `tpscope report`; `tpscope report --check` tells an edit."


@dataclass
class Recorded:
    """All that a report is made from: what ran and was read, the proofs of the same frameworks and models, the
    experiments with the same frameworks, and what was recommended among them."""

    rows: list[Row]
    proofs: list[prove_rows.Row]
    experiments: list[Measured] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)

    def text(self) -> str:
        """The rows as a file, one line a row."""
        return "".join(rows.line(row) + "\n" for row in [*self.rows, *self.proofs, *self.experiments, *self.advice])

    def page(self) -> str:
        """The report as Markdown."""
        return study.page(self.rows, self.proofs, self.experiments, MADE, self.advice)

    def section(self, title: str) -> str:
        """One section as Markdown."""
        return study.part(self.rows, self.proofs, title, self.experiments, self.advice)


def asked(frameworks: Iterable[str], models: Iterable[str], tps: Iterable[int]) -> Set:
    """The set of runs that a user names; what is left out is as in the default set. Raises UserError."""
    names = tuple(dict.fromkeys(_released(text) for text in frameworks)) or REPORT.frameworks
    chosen = tuple(dict.fromkeys(name.strip() for name in models if name.strip())) or REPORT.models
    for name in chosen:
        read_model(name)
    sizes = tuple(dict.fromkeys(tps)) or REPORT.tps
    if min(sizes) < 2:
        raise UserError(f"--tp {min(sizes)}: a report is about tensor parallelism; ask for 2 ranks or more")
    return Set(names, chosen, sizes)


def _released(text: str) -> str:
    if text == "installed":
        raise UserError("--with installed: a report cites released versions, so that anyone can check it; name one")
    target = registry.parse(text)
    if target.checkout is not None:
        raise UserError(f"--with {text}: a report cites released versions, so that anyone can check it; name one")
    return target.id


def titled(name: str) -> str:
    """The title of a section from its number, its title or a part of it. Raises UserError with the closest."""
    titles = [title for title, _ in (*study.SECTIONS, (study.changed.TITLE, study.changed.section), *study.APPENDICES)]
    wanted = name.strip().lower()
    exact = [title for title in titles if wanted in (title.lower(), title.lower().partition(". ")[2])]
    numbered = [title for title in titles if title.partition(".")[0] == wanted]
    parts = [title for title in titles if wanted and not wanted.isdigit() and wanted in title.lower()]
    for found in (exact, numbered, parts):
        if len(found) == 1:
            return found[0]
    words = {
        word: title
        for title in titles
        for word in re.findall(r"[a-z]{4,}|tp\b", re.sub(r"([a-z])([A-Z])", r"\1 \2", title).lower())
    }
    known = (
        words
        | {title.lower(): title for title in titles}
        | {title.lower().partition(". ")[2]: title for title in titles}
    )
    close = [known[key] for key in difflib.get_close_matches(wanted, [key for key in known if key], n=2, cutoff=0.4)]
    hint = " or ".join(dict.fromkeys(f"{title!r}" for title in parts or close)) or f"one of {', '.join(titles)}"
    raise UserError(f"--section {name}: no section of that name; did you mean {hint}?")


def collect(wanted: Set, root: Path, say: Callable[[str], None], fresh: bool = False) -> Recorded:
    """Run the set (what was run before comes from the cache); take the recorded proofs and experiments of its columns.

    Raises UserError where a model cannot be read, NoFramework where no column can be run.
    """
    from tpscope.report.record import record

    recorded = record(wanted.runs(), wanted.frameworks, say, fresh)
    experiments = [row for row in store.read(root) if row.framework in wanted.frameworks]
    advised = [row for row in advice.read(root) if row.frameworks <= set(wanted.frameworks)]
    return Recorded(recorded, proofs_of(prove_rows.read(root), wanted), experiments, advised)


def proofs_of(proofs: Iterable[prove_rows.Row], wanted: Set) -> list[prove_rows.Row]:
    """The recorded proofs of the frameworks and models of a set."""
    return [
        row
        for row in proofs
        if row.framework in wanted.frameworks and (isinstance(row, prove_rows.Swept) or row.model in wanted.models)
    ]


def read(path: Path) -> Recorded:
    """The rows of a report. Raises UserError where the file is not one."""
    try:
        lines = [text for text in path.read_text(encoding="utf-8").splitlines() if text]
        proofs = [text for text in lines if prove_rows.is_row(text)]
        tried = [text for text in lines if store.is_row(text)]
        advised = [text for text in lines if advice.is_row(text)]
        others = [text for text in lines if not (prove_rows.is_row(text) or store.is_row(text) or advice.is_row(text))]
        return Recorded(
            rows.read("\n".join(others)), [prove_rows.read_line(text) for text in proofs],
            [store.read_line(text) for text in tried], [advice.read_line(text) for text in advised],
        )  # fmt: skip
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path}: holds something that is no row of a report ({error}); make the report again"
        ) from error


def commands(recorded: Recorded) -> set[str]:
    """The commands of all comparisons."""
    return {row.command for row in recorded.rows if isinstance(row, RunRow)}


def experiments(recorded: Recorded) -> set[str]:
    """The commands of all experiments."""
    return {row.command for row in recorded.experiments}


def advised(recorded: Recorded) -> set[str]:
    """The commands of all recommendations."""
    return {row.command for row in recorded.advice}
