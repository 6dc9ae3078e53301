"""How long a call takes, warm: every repetition is timed, so that the spread is known and not only the mean."""

from __future__ import annotations

import gc
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tpscope.language.measured.cost import Times

# Enough repetitions for a median; at least `LEAST`, more for as long as `SECONDS` last.
LEAST, MOST, SECONDS = 5, 50, 1.0
ROUNDS = 200


def timed(
    run: Callable[[Any], Any], prepare: Callable[[], Any] = lambda: None, least: int = LEAST, most: int = MOST
) -> Times:
    """Time `run(prepare())`; what `prepare` does is not counted, nor is the first repetition."""
    taken: list[float] = []
    with _quiet():
        run(prepare())
        until = time.perf_counter() + SECONDS
        while len(taken) < least or (len(taken) < most and time.perf_counter() < until):
            given = prepare()
            started = time.perf_counter_ns()
            run(given)
            taken.append((time.perf_counter_ns() - started) / 1000)
    return _times(taken)


def in_turn(
    runs: Sequence[tuple[Callable[[], AbstractContextManager[Any]], Callable[[], Any]]], rounds: int = ROUNDS
) -> list[Times]:
    """Time several calls in turn, each within its context, so that a disturbance of the machine meets all alike. The
    first round is not counted, nor is entering a context."""
    taken: list[list[float]] = [[] for _ in runs]
    with _quiet():
        for number in range(rounds + 1):
            for mine, (during, run) in zip(taken, runs, strict=True):
                with during():
                    started = time.perf_counter_ns()
                    run()
                    elapsed = (time.perf_counter_ns() - started) / 1000
                if number:
                    mine.append(elapsed)
            gc.collect(0)
    return [_times(mine) for mine in taken]


def _times(taken: list[float]) -> Times:
    return Times(round(statistics.median(taken), 2), round(min(taken), 2), round(max(taken), 2), len(taken))


@contextmanager
def _quiet() -> Iterator[None]:
    """No handler prints, and the collector waits: both would be charged to whoever happens to run."""
    before, collects = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.INFO)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        logging.disable(before)
        if collects:
            gc.enable()
