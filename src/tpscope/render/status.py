"""What lives on standard error while work goes on; nothing of it where standard error is no terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape


class Status:
    """A context in which something is shown: one line of text, or whatever `live` starts and stops."""

    def __init__(self, console: Console | None = None, live: Any = None):
        self._console = console or Console(stderr=True)
        self._live = live if live is not None else self._console.status("")
        self._shown = self._console.is_terminal

    def __enter__(self) -> Self:
        if self._shown:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._live.stop()

    def say(self, kind: str, text: str) -> None:
        """Take an event; those of an installation are printed wherever we are."""
        if kind == "install":
            self._console.print(escape(text), style="dim")

    def line(self, text: str) -> None:
        """Replace the line of text."""
        if self._shown:
            self._live.update(escape(text))
