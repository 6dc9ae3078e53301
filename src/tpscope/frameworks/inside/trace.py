"""Which source lines ran: the evidence for why a framework did what it did."""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any

from tpscope.language.answer import Failure, TrailLine


class Trail:
    """Lines that ran in files under `roots` whose path contains one of `parts`, once each, in first-execution order.

    Values that functions return are kept by function name, so that the source of a plan can be told by identity.
    """

    def __init__(self, roots: list[str], parts: tuple[str, ...], limit: int = 400):
        self.roots = [str(Path(root).resolve()) + "/" for root in roots] + [root.rstrip("/") + "/" for root in roots]
        self.parts = parts
        self.limit = limit
        self.lines: list[TrailLine] = []
        self.returned: list[tuple[str, str, Any]] = []
        self._seen: set[tuple[str, int]] = set()
        self._wanted: dict[CodeType, str | None] = {}

    def relative(self, filename: str) -> str | None:
        """Path below a root, or None for a file that is not the framework's."""
        for root in self.roots:
            if filename.startswith(root):
                return filename[len(root) :]
        return None

    @contextmanager
    def on(self) -> Iterator[Trail]:
        """Record while the block runs."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield self
        finally:
            sys.settrace(before)

    def follow(self, frame: FrameType | None) -> None:
        """Record from here on, in frames that are already running too. Ends with `sys.settrace(None)`."""
        sys.settrace(self._enter)
        while frame is not None:
            frame.f_trace = self._enter(frame, "call", None)
            frame = frame.f_back

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code not in self._wanted:
            path = self.relative(code.co_filename)
            named = path is not None and any(part in path for part in self.parts)
            self._wanted[code] = path if named and not code.co_name.startswith("<") else None
        return self._step if self._wanted[code] is not None else None

    def _step(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        code = frame.f_code
        if event == "return":
            self.returned.append((self._wanted[code] or "", code.co_name, argument))
        elif event == "line" and (code.co_filename, frame.f_lineno) not in self._seen and len(self.lines) < self.limit:
            self._seen.add((code.co_filename, frame.f_lineno))
            text = linecache.getline(code.co_filename, frame.f_lineno).strip()
            if text and not text.startswith(('"""', "'''", "#")):
                symbol = getattr(code, "co_qualname", code.co_name)
                self.lines.append(TrailLine(self._wanted[code] or "", frame.f_lineno, symbol, text))
        return self._step


def failure(error: BaseException, phase: str, roots: list[str]) -> tuple[Failure, bool]:
    """What a framework raised, in its own words, and whether it raised it on purpose.

    On purpose: the innermost frame stands on a `raise` or `assert` statement of the overlay's own Python source and
    the exception says something. Everything else that comes out of a run is a crash.
    """
    trail = Trail(roots, ("",))
    frames = _frames(error.__traceback__)
    inner = frames[-1] if frames else None
    text = linecache.getline(inner[0], inner[1]).strip() if inner else ""
    own = [(path, line, name) for file, line, name in frames if (path := trail.relative(file)) is not None]
    where = None
    if own:
        path, line, name = own[-1]
        file = next(file for file, number, _ in reversed(frames) if trail.relative(file) == path and number == line)
        where = TrailLine(path, line, name, linecache.getline(file, line).strip())
    deliberate = (
        inner is not None
        and trail.relative(inner[0]) is not None
        and text.startswith(("raise", "assert"))
        and bool(str(error).strip())
        and not isinstance(error, (ImportError, AttributeError, KeyError, IndexError))
    )
    # An address differs from run to run, and means nothing in another.
    message = re.sub(r"\b(0x[0-9a-f]{8,}|\d{12,})\b", "<address>", " ".join(str(error).split())[:1200])
    # A bare assert says nothing: its own line is the framework's word then.
    message = message or (where.text if where else "") or type(error).__name__
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-12)
    return Failure(type(error).__name__, message, phase, where, "".join(lines)[-6000:]), deliberate


def ours(error: BaseException) -> bool:
    """True if an exception was raised by a statement of the code that drives the framework."""
    frames = _frames(error.__traceback__)
    here = Path(__file__).parent
    # These two stand between the framework and torch: what comes through them is torch's.
    between = {str(here / "device.py"), str(here / "wire.py")}
    return bool(frames) and frames[-1][0].startswith(f"{here}/") and frames[-1][0] not in between


def _frames(tb: TracebackType | None) -> list[tuple[str, int, str]]:
    found = []
    while tb is not None:
        found.append((tb.tb_frame.f_code.co_filename, tb.tb_lineno, tb.tb_frame.f_code.co_name))
        tb = tb.tb_next
    return found


def cite(roots: list[str], path: str, fragment: str, symbol: str = "") -> TrailLine | None:
    """The line of an installed file that holds a fragment, or None if the file or the fragment is not there."""
    for root in roots:
        file = Path(root) / path
        if file.is_file():
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                if fragment in line:
                    return TrailLine(path, number, symbol, line.strip())
    return None
