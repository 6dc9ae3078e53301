"""The lines of both frameworks that a row rests on, found in their installed source."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tpscope.frameworks import overlay
from tpscope.frameworks.registry import Target
from tpscope.language.answer import TrailLine
from tpscope.migrate.rows import Place, Row


def root_of(target: Target) -> Path | None:
    """Where a target's source lies, None where it is not installed or is not an overlay."""
    found = overlay.installed(target) if target.python is None else None
    return found.path if found else None


def lines(row: Row, roots: dict[str, Path | None]) -> list[TrailLine]:
    """The row's lines on both sides. Line 0 stands for a fragment that this version does not have."""
    return [found(place, roots.get(kind)) for kind, place in row.at.items()]


def found(place: Place, root: Path | None) -> TrailLine:
    """The first line that has the fragment."""
    for number, text in enumerate(_text(root / place.path) if root else (), 1):
        if place.fragment in text:
            return TrailLine(place.path, number, "", text.strip())
    return TrailLine(place.path, 0, "", place.fragment)


@cache
def _text(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()


def unread(names: set[str], root: Path, package: str) -> list[str]:
    """Names that stand nowhere in a package's source: keys that this version cannot know."""
    missing = set(names)
    for file in sorted((root / package).rglob("*.py")):
        if not missing:
            break
        text = file.read_text(encoding="utf-8")
        missing = {name for name in missing if name not in text}
    return sorted(missing)
