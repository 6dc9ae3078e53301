"""The register: the statements of the study of January 2026, each judged from the recorded rows."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict

from tpscope.report.facts import Study
from tpscope.report.judges import code, cost, edges, guidance, head, hierarchy, lora, mesh, performance, ports, styles
from tpscope.report.judges.view import Found, Quoted, Reply, View
from tpscope.report.prove_rows import Cell
from tpscope.report.rows import SourceRow

SOURCES = "python -m tpscope.report.study --sources"
_SUBJECTS = {
    module.__name__.rpartition(".")[2]: module
    for module in (hierarchy, styles, mesh, head, lora, code, guidance, cost, edges, ports, performance)
}
Judge = Callable[[View], Found]


class Ruling(StrEnum):
    """What became of a statement."""

    HOLDS = "holds"
    THEN = "held then and not now"
    NOT = "does not hold"
    OPEN = "cannot be judged"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Statement(_Strict):
    """One statement: its criterion, the commands whose rows are asked, and the function that asks them."""

    id: str
    text: str
    criterion: str
    experiment: tuple[str, ...]
    judge: str


class Question(_Strict):
    """One open question: what counts as an answer, the commands whose rows are asked, and the function that asks them;
    or the verbs that will answer it."""

    id: str
    text: str
    criterion: str = ""
    experiment: tuple[str, ...] = ()
    judge: str = ""
    verbs: tuple[str, ...] = ()


class Register(_Strict):
    """The file of statements. `then` names the version of each framework at the study's time."""

    then: dict[str, str]
    statement: tuple[Statement, ...]
    question: tuple[Question, ...]


@dataclass(frozen=True)
class Judged:
    """One statement with what came out for the versions of the study's time and for the newest.

    `why` is the criterion, and where the rows cannot tell that they cannot; the answers name the verb that will.
    `evidence` are source lines, `commands` those whose recorded rows were asked.
    """

    id: str
    text: str
    verdict: Ruling
    then: str
    now: str
    why: str
    evidence: tuple[Quoted, ...]
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Answered:
    """One question with what the rows answer for the versions of the study's time and for the newest.

    `verdict` is the answer in a few words, "" where the rows cannot tell; `verbs` are those that will.
    """

    id: str
    text: str
    verdict: str
    then: str
    now: str
    why: str
    evidence: tuple[Quoted, ...] = ()
    commands: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()


@cache
def register() -> Register:
    """The statements in their order."""
    text = (resources.files("tpscope.report") / "statements.toml").read_text(encoding="utf-8")
    return Register.model_validate(tomllib.loads(text))


def judged(study: Study) -> list[Judged]:
    """Every statement, judged from the rows of its experiment. Says nothing that no row says."""
    return [judge(statement, study) for statement in register().statement]


def judge(statement: Statement, study: Study) -> Judged:
    """One statement, judged."""
    ask: Judge = _judge(statement.judge)
    rows, commands = _of_experiment(statement.experiment, study)
    before, after = (ask(View(rows, **versions(study, newest))) for newest in (False, True))
    return Judged(
        statement.id, statement.text, _verdict(before.met, after.met), _answer(before), _answer(after),
        _why(statement.criterion, before.met, after.met),
        _each((*before.evidence, *after.evidence)), commands,
    )  # fmt: skip


def answered(study: Study) -> list[Answered]:
    """Every question, answered from the rows of its experiment as far as they tell."""
    return [answer(question, study) for question in register().question]


def answer(question: Question, study: Study) -> Answered:
    """One question, answered."""
    if not question.judge:
        return Answered(question.id, question.text, "", "", "", "", verbs=question.verbs)
    ask: Callable[[View], Reply] = _judge(question.judge)
    rows, commands = _of_experiment(question.experiment, study)
    before, after = (ask(View(rows, **versions(study, newest))) for newest in (False, True))
    told = [f"{time}: {one.verdict}" for time, one in (("then", before), ("now", after)) if one.verdict]
    verdict = after.verdict if before.verdict == after.verdict else "; ".join(told)
    return Answered(
        question.id, question.text, verdict, before.words, after.words, question.criterion,
        _each((*before.evidence, *after.evidence)), commands, () if verdict else question.verbs or _names(question),
    )  # fmt: skip


def _names(question: Question) -> tuple[str, ...]:
    """The experiments of a question by their modules: `experiments.cost`."""
    return tuple(".".join(command.split(".")[-2:]) for command in question.experiment)


def _judge(name: str) -> Any:
    """The function of `judges/` that a `module.function` names."""
    subject, _, function = name.partition(".")
    return getattr(_SUBJECTS[subject], function)


def versions(study: Study, newest: bool) -> dict[str, str]:
    """The two framework versions of one time; empty where the study did not ask one."""
    families = study.families()
    found = {}
    for family, then in register().then.items():
        asked = families.get(family, [])
        found[family] = asked[-1] if newest and asked else then if then in asked else ""
    return found


def _of_experiment(commands: Iterable[str], study: Study) -> tuple[Study, tuple[str, ...]]:
    """A study of the rows of these commands alone, and the commands as they were run."""
    patterns = [re.compile(re.escape(command).replace("MODEL", r"\S+")) for command in commands]
    runs = [run for run in study.runs if any(one.fullmatch(_bare(run.command)) for one in patterns)]
    cells = [cell for cell in study.proofs.cells if any(one.fullmatch(_bare(proof(cell))) for one in patterns)]
    plain = [cell for cell in study.proofs.cells if cells and cell.scenario == "plain"]
    sources: list[SourceRow] = study.sources if SOURCES in commands else []
    tried = [row for row in study.experiments if any(one.fullmatch(_bare(row.command)) for one in patterns)]
    rows = Study([*runs, *sources], [*study.proofs.swept.values(), *plain, *cells], tried)
    named = [cell for cell in cells if cell.framework in study.frameworks]
    asked = [row.command for row in tried if row.framework in study.frameworks]
    made = [*(run.command for run in runs), *map(proof, named), *([SOURCES] if sources else []), *asked]
    return rows, tuple(dict.fromkeys(made))


def proof(cell: Cell) -> str:
    """The command that repeats a proof."""
    return f"tpscope prove {cell.model} --tp {cell.tp} --scenarios {cell.scenario} --with {cell.framework}"


def _bare(command: str) -> str:
    return re.sub(r" --with \S+", "", command)


def _verdict(before: bool | None, after: bool | None) -> Ruling:
    if after is False:
        return Ruling.THEN if before else Ruling.NOT
    if before is False:
        return Ruling.NOT
    return Ruling.HOLDS if before and after else Ruling.OPEN


def _answer(found: Found) -> str:
    return f"{ {True: 'yes', False: 'no', None: 'open'}[found.met] }: {found.words}"


def _why(criterion: str, before: bool | None, after: bool | None) -> str:
    open_ = [time for time, met in (("then", before), ("now", after)) if met is None]
    return f"{criterion} The recorded rows cannot tell for {' and '.join(open_)}." if open_ else criterion


def _each(quotes: Iterable[Quoted]) -> tuple[Quoted, ...]:
    return tuple({(one.framework, one.line.path, one.line.line): one for one in quotes}.values())
