"""Cores that nobody else uses, and whether they stayed so.

On a shared host a neighbour on the other hardware thread of a core makes ours slower by up to two, and the guest sees
neither the neighbour nor stolen time. A short fixed loop on a core shows it. A process is held on the cores where that
loop is fastest, and a repeat after which one of them is slow says nothing about the code that was timed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROUNDS = 20_000
# The main thread, autograd's, and those of the libraries.
WANTED = 4
# Between a core of its own, whose clock varies by a third, and a shared one, where the loop takes about twice as long.
SLOWER = 1.5


def loop() -> float:
    """Seconds of the fixed loop, here and now."""
    started, value = time.perf_counter(), 0
    for index in range(ROUNDS):
        value += index
    return time.perf_counter() - started


class Cores:
    """The part of the machine's cores that belongs to one rank of several, and of these the ones it is held on."""

    def __init__(
        self, rank: int, size: int, every: Sequence[int] | None = None, probe: Callable[[int], float] | None = None
    ):
        if every is None:
            every = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        share = len(every) // max(size, 1)
        self.mine: Sequence[int] = every[rank * share : (rank + 1) * share] if share >= 2 * WANTED else []
        self.held: list[int] = []
        self._probe = probe or self._on
        self._best = float("inf")

    def settle(self) -> None:
        """Hold this process on the quietest of its cores. With too few cores to choose from nothing is done."""
        if not self.mine:
            return
        found = {core: self._seen(core) for core in self.mine}
        self.held = sorted(sorted(found, key=lambda core: found[core])[:WANTED])
        self._hold(self.held)

    def slowdown(self) -> float:
        """Times as long as ever that the loop takes now on the slowest core in use: above `SLOWER` it is shared."""
        found = [self._seen(core) for core in self.held]
        self._hold(self.held)
        return max(found, default=self._best) / self._best if found else 1.0

    def _seen(self, core: int) -> float:
        seconds = self._probe(core)
        self._best = min(self._best, seconds)
        return seconds

    @staticmethod
    def _on(core: int) -> float:
        os.sched_setaffinity(0, {core})
        # The second one: the first pays for the move.
        return min(loop(), loop())

    @staticmethod
    def _hold(cores: Iterable[int]) -> None:
        """Every thread of this process: an affinity is a thread's."""
        for thread in Path("/proc/self/task").iterdir() if cores else ():
            try:
                os.sched_setaffinity(int(thread.name), set(cores))
            except OSError:
                # A thread that ended meanwhile.
                continue
