"""One style class of a framework and its counterparts in plain PyTorch, and what that makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tpscope.language.answer import TrailLine
from tpscope.language.measured.port import Means, Outcome, Trial, Try
from tpscope.report.experiments.rows import Measured


class Port(StrEnum):
    """Whether a style class has a place in PyTorch."""

    COVERED = "covered already"
    PORTABLE = "portable"
    NOT = "not portable"
    OPEN = "not tried"


@dataclass(kw_only=True)
class Style(Measured):
    """A class with the line that defines it, and what came of trying it."""

    style: str
    extends: str
    where: TrailLine
    trial: Trial
    row: str = "style"


def counterpart(row: Style) -> Try | None:
    """The first counterpart that gives the same, the least first; None if none does."""
    tried = [one for one in row.trial.tries if one.means != Means.CONTROL and one.outcome == Outcome.EQUAL]
    return next(iter(sorted(tried, key=lambda one: list(Means).index(one.means))), None)


def controlled(row: Style) -> bool:
    """True if the counterpart that is wrong on purpose was told from the style."""
    wrong = [one for one in row.trial.tries if one.means == Means.CONTROL]
    return bool(wrong) and all(one.outcome != Outcome.EQUAL for one in wrong)


def ported(row: Style) -> Port:
    """What the trial says of a class. Without a control that was told from it, nothing."""
    own = row.trial.own
    if own is None:
        return Port.OPEN
    if own.outcome == Outcome.RAISED:
        return Port.NOT
    if not controlled(row):
        return Port.OPEN
    found = counterpart(row)
    if found is None:
        return Port.NOT
    return Port.PORTABLE if found.means == Means.PATCH else Port.COVERED


def why(row: Style) -> str:
    """What a verdict that is not a counterpart rests on."""
    own = row.trial.own
    if own is None:
        return row.trial.missing or row.failed
    if own.outcome == Outcome.RAISED:
        return f"the class itself raises here: {own.said}"
    if not controlled(row):
        return "what is wrong on purpose could not be told from it"
    told = [f"{one.text}: {one.said}" for one in row.trial.tries if one.means != Means.CONTROL]
    return "; ".join(told) or "nothing was tried"
