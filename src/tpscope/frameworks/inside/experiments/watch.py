"""What of a framework's code runs: which functions are entered, and which lines and ways of its branches."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tpscope.frameworks.inside.trace import Trail

Function = tuple[str, str]
END = -1
# The code that shards, beside torch; what else an overlay holds serves these.
_PACKAGES = ("nemo_automodel/", "axolotl/", "transformers/", "accelerate/", "peft/")


def own(roots: list[str]) -> Callable[[str], str | None]:
    """A function that gives the path of a file below the roots, None for what belongs to no framework."""
    relative = Trail(roots, ("",)).relative

    def path_of(file: str) -> str | None:
        path = relative(file)
        return path if path is not None and path.startswith(_PACKAGES) else None

    return path_of


class Watch:
    """Counts how often each function of the framework's packages is entered, as (path, qualified name)."""

    def __init__(self, roots: list[str]):
        self.entered: Counter[Function] = Counter()
        self._relative = own(roots)
        self._known: dict[CodeType, Function | None] = {}

    @contextmanager
    def on(self) -> Iterator[Watch]:
        """Count while the block runs, in every thread that it starts too."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        """Count from here on."""
        threading.setprofile(self._enter)
        sys.setprofile(self._enter)

    def stop(self) -> None:
        """Count no more."""
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]

    def _enter(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code not in self._known:
            path = self._relative(code.co_filename)
            self._known[code] = (path, code.co_qualname) if path and not code.co_name.startswith("<") else None
        function = self._known[code]
        if function is not None:
            self.entered[function] += 1


class Steps:
    """Every line of the framework's packages that runs, and from which line it was come to."""

    def __init__(self, roots: list[str]):
        self.moves: dict[str, set[tuple[int, int]]] = {}
        self.functions: dict[str, set[tuple[int, str]]] = {}
        self.files: dict[str, Path] = {}
        self._relative = own(roots)
        self._known: dict[CodeType, str | None] = {}
        self._last: dict[FrameType, int] = {}

    @contextmanager
    def on(self) -> Iterator[Steps]:
        """Record while the block runs."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield self
        finally:
            sys.settrace(before)
            self._last.clear()

    def lines(self) -> dict[str, list[int]]:
        """Lines that ran, by file."""
        return {path: sorted({to for _, to in moves if to != END}) for path, moves in self.moves.items()}

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code not in self._known:
            path = self._relative(code.co_filename)
            self._known[code] = path if path and not code.co_name.startswith("<") else None
            if self._known[code] is not None:
                self.files[path or ""] = Path(code.co_filename)
        path = self._known[code]
        if path is None:
            return None
        self.functions.setdefault(path, set()).add((code.co_firstlineno, code.co_name))
        self._last[frame] = code.co_firstlineno
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = self._known[frame.f_code] or ""
        moves = self.moves.setdefault(path, set())
        if event == "line":
            moves.add((self._last.get(frame, 0), frame.f_lineno))
            self._last[frame] = frame.f_lineno
        elif event == "return":
            moves.add((self._last.pop(frame, 0), END))
        return self._step
