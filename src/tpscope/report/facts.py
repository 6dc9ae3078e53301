"""The recorded rows as the sections ask for them. Nothing is judged here that a run did not say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from packaging.version import Version

from tpscope.compare.result import Difference
from tpscope.language.verdict import Severity, Status
from tpscope.report import prove_rows
from tpscope.report.advice import Advice
from tpscope.report.experiments.rows import Measured
from tpscope.report.prove_rows import Proofs
from tpscope.report.rows import Cited, Column, Provenance, Row, RunRow, SourceRow
from tpscope.report.runs import ADAPTERS, EXAMPLE, MESH, PLAIN, SEQUENCE, WIDE

HARMFUL = (Severity.WRONG, Severity.BLOCKS, Severity.IGNORED)
_KIND = {SEQUENCE: "sequence parallel", ADAPTERS: "LoRA"}


Kind = TypeVar("Kind", bound=Measured)


class Study:
    """All rows, by kind of run, model and framework; proofs of the sweep, rows of the experiments, recommendations."""

    def __init__(
        self, rows: list[Row], proofs: Iterable[prove_rows.Row] = (), experiments: Iterable[Measured] = (),
        advice: Iterable[Advice] = (),
    ):  # fmt: skip
        self.proofs = Proofs(list(proofs))
        self.experiments = list(experiments)
        # The text so far, by title: what the appendices that are about the text read.
        self.written: dict[str, list[str]] = {}
        self.advice = list(advice)
        self.runs = [row for row in rows if isinstance(row, RunRow)]
        self.sources = [row for row in rows if isinstance(row, SourceRow)]
        self.frameworks = list(dict.fromkeys(column.id for run in self.runs for column in run.answers))

    def of(self, kind: str) -> list[RunRow]:
        """Runs of one kind, in the order in which they were recorded."""
        return [run for run in self.runs if run.question.kind == kind]

    def plain(self, model: str = EXAMPLE) -> RunRow | None:
        """The run of one model at the first tp size and nothing else, None if that model was not asked."""
        runs = self.of(PLAIN)
        return next((run for run in runs if run.question.model == model), None)

    @property
    def tp(self) -> int:
        """The tp size at which every model was asked."""
        return next((run.question.layout.tp for run in self.of(PLAIN)), 2)

    def example(self) -> RunRow | None:
        """The model that stands for all where one is shown in full."""
        return self.plain() or next(iter(self.of(PLAIN)), None)

    def columns(self, framework: str, kind: str | None = None) -> list[Column]:
        """Every recorded answer of a framework."""
        runs = self.runs if kind is None else self.of(kind)
        return [column for run in runs if (column := run.column(framework))]

    def measured(self, kind: type[Kind], framework: str | None = None) -> list[Kind]:
        """The rows of one kind of experiment; of one framework if it is named."""
        rows = [row for row in self.experiments if isinstance(row, kind)]
        return [row for row in rows if framework in (None, row.framework)]

    def made(self) -> list[Provenance]:
        """Where each row came from, runs first."""
        read = [*(row.made for row in self.sources), *(row.made for row in self.experiments)]
        return [*(run.made for run in self.runs), *read]

    def families(self) -> dict[str, list[str]]:
        """Framework ids by family, oldest first."""
        found: dict[str, list[str]] = {}
        for identifier in self.frameworks:
            found.setdefault(identifier.partition("@")[0], []).append(identifier)
        return {name: sorted(versions, key=_age) for name, versions in found.items()}

    def newest(self) -> list[str]:
        """The newest version of each family, of those whose sources are there."""
        there = {row.framework for row in self.sources}
        return [[key for key in keys if key in there or not there & set(keys)][-1] for keys in self.families().values()]

    def cited(self, framework: str, what: str) -> list[Cited]:
        """What was read in a framework's source."""
        return [item for row in self.sources if row.framework == framework for item in row.cited if item.what == what]

    def source(self, framework: str) -> SourceRow | None:
        """Everything read in a framework's source."""
        return next((row for row in self.sources if row.framework == framework), None)

    def packages(self, framework: str) -> dict[str, str]:
        """Packages and versions that a framework ran with."""
        return next((column.packages for column in self.columns(framework) if column.packages), {})


def _age(identifier: str) -> Version:
    return Version(identifier.partition("@")[2].partition("+")[0])


def label(run: RunRow) -> str:
    """A run in a few words: the model, and what is special about it."""
    asked = run.question
    if asked.kind == PLAIN:
        return asked.model
    if asked.kind in (WIDE, MESH):
        return f"{asked.model} ({asked.layout})"
    return f"{asked.model} with {_KIND.get(asked.kind, asked.kind)}"


@dataclass(frozen=True)
class Finding:
    """Something that a framework does and its user would not expect, in the words of the comparison."""

    severity: Severity
    framework: str
    subject: str
    words: str
    run: str


def blamed(difference: Difference) -> dict[str, str]:
    """The frameworks that a difference is about, each with what is said of it. Empty for a mere comparison.

    A sentence is about those that stand at its head (`one, two: ...`), unless it goes on to speak of others.
    """
    if difference.subject.startswith("gradient of"):
        kinds = ("none", "mean", "marked, not done")
        return {key: _of_gradient(key, difference) for key, value in difference.values.items() if value in kinds}
    rest, heads = difference.meaning, {}
    ids = "|".join(sorted(map(re.escape, difference.values), key=len, reverse=True))
    while match := re.match(rf"({ids})(?![\w.+])( \([^)]*\))?(, | and |: | )", rest):
        heads[match[1]] = match[2] or ""
        rest = rest[match.end() :]
    if re.search(rf"(?:{ids})(?![\w.+])", rest):
        return {}
    return {key: rest + aside for key, aside in heads.items()}


def _of_gradient(key: str, difference: Difference) -> str:
    match = re.search(rf"{re.escape(key)} ((?:replicates|marks)[^,]*)", difference.meaning)
    return match[1] if match else difference.meaning


def findings(study: Study) -> list[Finding]:
    """Every difference that is about one framework, run by run."""
    return [
        Finding(difference.severity, framework, difference.subject, words, label(run))
        for run in study.runs
        for difference in run.differences
        for framework, words in blamed(difference).items()
    ]


@dataclass(frozen=True)
class Merged:
    """One finding over all runs in which it was seen. `words` are those of the first of them."""

    severity: Severity
    framework: str
    subject: str
    words: str
    runs: tuple[str, ...]


def merged(found: list[Finding]) -> list[Merged]:
    """Findings that say the same of the same framework, put together, worst first; figures may differ between runs."""
    groups: dict[tuple[Severity, str, str, str], list[Finding]] = {}
    for item in found:
        key = (item.severity, item.framework, item.subject, re.sub(r"\d[\d.,]*", "#", item.words))
        groups.setdefault(key, []).append(item)
    alike: dict[tuple[Severity, str, str, tuple[str, ...]], list[Finding]] = {}
    for (severity, framework, _, words), items in groups.items():
        runs = tuple(dict.fromkeys(item.run for item in items))
        alike.setdefault((severity, framework, words, runs), []).append(items[0])
    rows = [
        Merged(severity, framework, joined_subjects([item.subject for item in items]), items[0].words, runs)
        for (severity, framework, _, runs), items in alike.items()
    ]
    order = list(Severity)
    return sorted(rows, key=lambda row: (order.index(row.severity), row.framework, -len(row.runs)))


def joined_subjects(subjects: list[str]) -> str:
    """`gradient of q_norm, k_norm`: subjects of one kind share its words."""
    prefix = "gradient of "
    gradients = [subject.removeprefix(prefix) for subject in dict.fromkeys(subjects) if subject.startswith(prefix)]
    others = [subject for subject in dict.fromkeys(subjects) if not subject.startswith(prefix)]
    return "; ".join([*([prefix + ", ".join(gradients)] if gradients else []), *others])


def harm(run: RunRow, framework: str) -> list[Finding]:
    """What one run says against a framework: wrong, blocks, ignored."""
    return [
        Finding(difference.severity, key, difference.subject, words, label(run))
        for difference in run.differences
        if difference.severity in HARMFUL
        for key, words in blamed(difference).items()
        if key == framework
    ]


def standing(run: RunRow, framework: str) -> str:
    """One cell on how a framework fares: its status, or the level of its plan with what speaks against it."""
    column = run.column(framework)
    if column is None:
        return "not asked"
    if column.status != Status.OK:
        phase = f" in {column.error.phase}" if column.error and column.status == Status.CRASHED else ""
        return f"**{column.status.value}**{phase}"
    against = harm(run, framework)
    words = [f"{column.selection.level} plan"]
    wrong = [item.subject for item in against if item.severity == Severity.WRONG]
    if wrong:
        words.append(f"**wrong**: {joined_subjects(wrong)}")
    if column.loop_error is not None:
        words.append("**stops** before the first optimizer step")
    if column.unobserved and column.loop_error is None:
        words.append("training loop unobserved")
    ignored = [item.subject for item in against if item.severity == Severity.IGNORED]
    if ignored:
        words.append(f"ignored: {', '.join(dict.fromkeys(ignored))}")
    return "; ".join(words)
