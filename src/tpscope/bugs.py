"""The bug book: known framework bugs, one TOML a bug under `bugs/`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

BOOK = Path(__file__).resolve().parents[2] / "bugs"


class BadEntry(ValueError):
    """A file of the bug book that does not say what an entry must say."""


@dataclass(frozen=True)
class Expected:
    """What `prove` says of the bug on one version."""

    framework: str
    verdict: str
    cause: str = ""


@dataclass(frozen=True)
class Bug:
    """One known bug: of which package, in which versions, and when it bites.

    `affected` and `fixed` are versions of the package `framework`, which may be one that a training framework pins
    (transformers, peft, accelerate). `model_types`, `scenario` and `settings` narrow it down; empty means always.
    """

    id: str
    title: str
    framework: str
    what: str
    reported: str
    affected: str
    fixed: str
    command: str
    model_types: tuple[str, ...] = ()
    scenario: str = ""
    settings: tuple[str, ...] = ()
    expected: tuple[Expected, ...] = ()

    def covers(self, version: str) -> bool:
        """True if a version of the package has the bug."""
        return SpecifierSet(self.affected).contains(version.split("+")[0], prereleases=True)

    @property
    def link(self) -> str:
        """Where it was reported, "" if nowhere."""
        return self.reported if self.reported.startswith("http") else ""


@cache
def load(folder: Path = BOOK) -> tuple[Bug, ...]:
    """Every entry, by file name. No folder, no entries. Raises BadEntry with the file that is wrong."""
    return tuple(_entry(file) for file in sorted(folder.glob("*.toml"))) if folder.is_dir() else ()


def _entry(file: Path) -> Bug:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
        SpecifierSet(table["affected"])
        when = table.get("when", {})
        return Bug(
            id=table["id"], title=table["title"], framework=table["framework"], what=table["what"],
            reported=table.get("reported", ""), affected=table["affected"], fixed=table.get("fixed", ""),
            command=table.get("command", ""), model_types=_many(when.get("model_types")),
            scenario=when.get("scenario", ""), settings=_many(when.get("settings")),
            expected=tuple(
                Expected(item["with"], item["verdict"], item.get("cause", "")) for item in table.get("expected", [])
            ),
        )  # fmt: skip
    except (tomllib.TOMLDecodeError, KeyError, InvalidSpecifier) as error:
        raise BadEntry(f"{file}: {error}") from error


def _many(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else ((value,) if value else ())
