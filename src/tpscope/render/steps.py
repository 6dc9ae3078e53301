"""How far a list of steps has come and how long the rest will take, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from tpscope.render.status import Status

QUICK = 0.5


class Steps(Status):
    """Counts steps. A live line in a terminal; elsewhere a line for each step that took its time."""

    def __init__(self, total: int, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console)
        self._total, self._clock = total, clock
        self._begun, self._slow, self._count = clock(), 0.0, 0

    def __call__(self, text: str) -> None:
        """Begin a step; what does not name a comparison is an aside."""
        if not text.startswith("tpscope compare "):
            self.say("install", text)
            return
        now = self._clock()
        took = now - self._begun if self._count else 0.0
        self._begun = now
        self._slow += took if took > QUICK else 0.0
        self._count += 1
        line = f"{self._count} of {self._total}{self.estimate()}: {text.partition(' --with')[0]}"
        self.line(line)
        if not self._shown and (took > QUICK or self._count in (1, self._total)):
            self._console.print(line, highlight=False, soft_wrap=True)

    def estimate(self) -> str:
        """How long the rest takes if it goes on as until now; nothing before the first step is done."""
        done = self._count - 1
        if done < 1 or not self._slow:
            return ""
        return f", about {self._slow / done * (self._total - done):.0f} s to go"
