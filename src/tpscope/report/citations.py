"""Every source line that the rows cite, and whether the installed source still says it there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from tpscope.frameworks import overlay, registry
from tpscope.language.answer import TrailLine
from tpscope.language.evidence import sha256_of
from tpscope.report.experiments.rows import Measured
from tpscope.report.rows import Row, RunRow, SourceRow


@dataclass(frozen=True)
class Citation:
    """One source line of one framework version. `path` is relative to its overlay, `text` is the line, stripped."""

    framework: str
    path: str
    line: int
    text: str

    @property
    def place(self) -> str:
        """As the text of a report writes it."""
        return f"{self.path}:{self.line}"


def citations(rows: Iterable[Row | Measured]) -> list[Citation]:
    """Every cited line, each once, in the order of the rows."""
    found = (
        Citation(framework, line.path, line.line, line.text)
        for row in rows
        for framework, tree in _trees(row)
        for line in lines_of(tree)
    )
    return list(dict.fromkeys(found))


def _trees(row: Row | Measured) -> list[tuple[str, Any]]:
    if isinstance(row, RunRow):
        return [(column.id, column) for column in row.answers]
    if isinstance(row, Measured):
        return [(row.framework, row)]
    return [(row.framework, row.cited)]


def lines_of(tree: Any) -> Iterator[TrailLine]:
    """Every source line in a tree of dataclasses."""
    if isinstance(tree, TrailLine):
        yield tree
    elif is_dataclass(tree):
        for item in fields(tree):
            yield from lines_of(getattr(tree, item.name))
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from lines_of(item)
    elif isinstance(tree, dict):
        yield from lines_of(list(tree.values()))


@dataclass(frozen=True)
class Drift:
    """What is no longer as the rows say, of one citation or of one file (`line` 0)."""

    framework: str
    path: str
    line: int
    why: str


class Sources:
    """The installed overlays, and the digests of their files as the rows have them."""

    def __init__(self, rows: Iterable[Row | Measured]):
        sources = [row for row in rows if isinstance(row, (SourceRow, Measured))]
        self._digests = {(row.framework, file.path): file.sha256 for row in sources for file in row.files}
        self._roots: dict[str, Path | None] = {}
        self._texts: dict[tuple[str, str], list[str] | None] = {}

    def gone(self, framework: str) -> bool:
        """True if the framework's sources are not installed."""
        return self._root(framework) is None

    def drifts(self, cited: Iterable[Citation]) -> list[Drift]:
        """Everything that does not resolve: fragments that are gone or moved, files that are gone or changed."""
        kept = [item for item in cited if not self.gone(item.framework)]
        lines = [Drift(item.framework, item.path, item.line, why) for item in kept if (why := self._of_line(item))]
        files = dict.fromkeys([*((item.framework, item.path) for item in kept), *self._digests])
        return lines + [
            Drift(framework, path, 0, why)
            for framework, path in files
            if not self.gone(framework) and (why := self._of_file(framework, path))
        ]

    @property
    def files(self) -> int:
        """How many files have a recorded digest."""
        return len(self._digests)

    def _root(self, framework: str) -> Path | None:
        if framework not in self._roots:
            found = overlay.installed(registry.parse(framework))
            self._roots[framework] = found.path if found else None
        return self._roots[framework]

    def _text(self, framework: str, path: str) -> list[str] | None:
        key, root = (framework, path), self._root(framework)
        if key not in self._texts:
            file = root / path if root else None
            there = file is not None and file.is_file()
            self._texts[key] = file.read_text(encoding="utf-8").splitlines() if file and there else None
        return self._texts[key]

    def _of_line(self, item: Citation) -> str:
        text = self._text(item.framework, item.path)
        if text is None:
            return "the file is not in the installed package"
        at = [number for number, line in enumerate(text, 1) if line.strip() == item.text]
        if item.line in at:
            return ""
        if at:
            return f"the fragment {item.text!r} stands in line {', '.join(map(str, at[:3]))} now"
        return f"the fragment {item.text!r} is not in the file any more"

    def _of_file(self, framework: str, path: str) -> str:
        recorded, root = self._digests.get((framework, path)), self._root(framework)
        if recorded is None:
            return "lines of it are cited and no sha256 of it was recorded"
        if root is None or not (root / path).is_file():
            return "the file is not in the installed package"
        now = sha256_of(root / path)
        return "" if now == recorded else f"sha256 is {now[:16]}..., recorded was {recorded[:16]}..."
