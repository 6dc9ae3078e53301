"""What runs when a plan is chosen and when it is applied: lines, branches and files; and what is logged meanwhile."""

from __future__ import annotations

import contextlib
import linecache
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.experiments.branches import Branch, branches
from tpscope.frameworks.inside.experiments.subject import Subject, subject
from tpscope.frameworks.inside.experiments.watch import Steps, own
from tpscope.language.answer import TrailLine

_LONGEST = 160


@dataclass
class Phase:
    """Lines that ran by file, functions that were entered, and the branches of these functions."""

    name: str
    lines: dict[str, list[int]]
    functions: int
    branches: list[Branch]


@dataclass
class Logged:
    """One log record of the framework, at any level: when, by which logger, from which line, and what it says."""

    phase: str
    level: str
    logger: str
    where: TrailLine
    says: str


@dataclass
class Ran:
    """What one model makes run. The level of its plan stands beside it."""

    level: str
    phases: list[Phase]
    logged: list[Logged] = field(default_factory=list)


def answer(family: str, case: Case, options: dict[str, Any]) -> Ran:
    """Choose and apply the plan of the small model on meta: once traced, once with every logger listened to."""
    framework = subject(family, case)
    level = framework.levels(framework.model(small=True))[0].level
    model = framework.model(small=True)
    choosing, applying = Steps(case.roots), Steps(case.roots)
    with choosing.on():
        framework.select(model)
    with applying.on():
        framework.apply(model)
    for path, moves in choosing.moves.items():
        # Where application chooses again by itself, what it ran for that is choice and not application.
        applying.moves[path] = applying.moves.get(path, set()) - moves
        applying.functions[path] = applying.functions.get(path, set()) - choosing.functions.get(path, set())
    phases = [_phase("choice", choosing), _phase("application", applying)]
    return Ran(level, phases, _logged(framework, case))


def _phase(name: str, steps: Steps) -> Phase:
    lines = {path: numbers for path, numbers in steps.lines().items() if numbers}
    return Phase(name, lines, sum(len(names) for names in steps.functions.values()), branches(steps))


def _logged(framework: Subject, case: Case) -> list[Logged]:
    found: dict[tuple[str, str, int], Logged] = {}
    model = framework.model(small=True)
    relative = own(case.roots)

    def during(phase: str, run: Any, model: nn.Module) -> None:
        records: list[logging.LogRecord] = []
        with _every_record(records):
            run(model)
        for record in records:
            path = relative(record.pathname)
            if path is None:
                continue
            text = linecache.getline(record.pathname, record.lineno).strip()
            where = TrailLine(path, record.lineno, record.funcName or "", text)
            says = " ".join(record.getMessage().split())[:_LONGEST]
            key = (record.levelname, path, record.lineno)
            found.setdefault(key, Logged(phase, record.levelname, record.name, where, says))

    during("choice", framework.select, model)
    during("application", framework.apply, model)
    return list(found.values())


@contextlib.contextmanager
def _every_record(kept: list[logging.LogRecord]) -> Iterator[None]:
    """Every logger speaks at every level, and every record is kept."""
    loggers = [logging.root, *(item for item in logging.root.manager.loggerDict.values() if hasattr(item, "setLevel"))]
    levels = [(logger, logger.level) for logger in loggers]
    disabled, call = logging.root.manager.disable, logging.Logger.callHandlers
    logging.disable(logging.NOTSET)
    for logger in loggers:
        logger.setLevel(1)
    logging.Logger.callHandlers = lambda self, record: kept.append(record)  # type: ignore[method-assign]
    try:
        yield
    finally:
        logging.Logger.callHandlers = call  # type: ignore[method-assign]
        logging.disable(disabled)
        for logger, level in levels:
            logger.setLevel(level)
