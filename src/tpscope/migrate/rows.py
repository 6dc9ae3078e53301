"""The mapping as data: one row a field pair, read from fields/*.toml, used in both directions."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from tpscope.migrate.result import Verdict

KINDS = ("axolotl", "nemo")
PACKAGE = {"axolotl": "axolotl", "nemo": "nemo_automodel"}
_BRACES = re.compile(r"\{([^{}]*)\}")
_OUTSIDE = ("transformers/", "accelerate/", "peft/")
# In the order in which a config is told.
SECTIONS = (
    "model", "precision", "lora", "layout", "batch", "optimizer", "schedule", "kernels", "data", "run", "logging",
    "elsewhere",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A line of a framework's source, by a fragment of it. `path` is relative to the overlay."""

    path: str
    fragment: str


@dataclass(frozen=True)
class Row:
    """One field pair, or several fields that mean something together.

    `keys` are dotted paths on each side; `[]` stands for an item of a list and `*` for any name. `how` names the
    functions that compute. `verdict` is what a value gets that has no counterpart, or that is copied at a loss.
    `off` are values that ask for nothing, `defaults` what a framework does where nothing is said, `within` the
    section without which a default means nothing, `table` values of Axolotl to those of NeMo, `always` true where the
    functions have something to say of a file without any of the keys.
    """

    section: str
    keys: dict[str, tuple[str, ...]]
    how: str
    reason: str
    at: dict[str, Place]
    verdict: Verdict | None = None
    off: tuple[Any, ...] = ()
    defaults: dict[str, Any] | None = None
    within: dict[str, str] | None = None
    table: dict[str, str] | None = None
    always: bool = False

    def covers(self, kind: str, pattern: str) -> bool:
        """True if a key of the row, on this side, is the one that a file has."""
        return any(_matches(key, pattern) for key in self.keys.get(kind, ()))

    @cached_property
    def names(self) -> str:
        """The row in one word, for errors."""
        return f"{self.section}: {' '.join(self.keys['axolotl'])} | {' '.join(self.keys['nemo'])}"


def _matches(key: str, pattern: str) -> bool:
    return fnmatchcase(pattern, key.replace("[]", "[[]]")) if "*" in key else key == pattern


@cache
def rows() -> tuple[Row, ...]:
    """Every row, in the order of the sections."""
    folder = Path(__file__).with_name("fields")
    found: list[Row] = []
    for section in SECTIONS:
        data = tomllib.loads((folder / f"{section}.toml").read_text(encoding="utf-8"))
        found += [_row(section, item) for item in data["field"]]
    return tuple(found)


def _row(section: str, item: dict[str, Any]) -> Row:
    verdict = item.get("verdict")
    return Row(
        section,
        {kind: _names(item.get(kind)) for kind in KINDS},
        item.get("how", "same"),
        item.get("reason", ""),
        {kind: _place(kind, *place) for kind, place in item.get("at", {}).items()},
        Verdict(verdict) if verdict else None,
        tuple(item.get("off", ())),
        item.get("default"),
        item.get("within"),
        item.get("table"),
        item.get("always", False),
    )


def _names(value: Any) -> tuple[str, ...]:
    names = () if value is None else (value,) if isinstance(value, str) else tuple(value)
    return tuple(spelt for name in names for spelt in _unfolded(name))


def _unfolded(name: str) -> list[str]:
    """`{a,b}.c` is `a.c` and `b.c`."""
    if (found := _BRACES.search(name)) is None:
        return [name]
    parts = found[1].split(",")
    return [spelt for part in parts for spelt in _unfolded(name[: found.start()] + part + name[found.end() :])]


def _place(kind: str, path: str, fragment: str) -> Place:
    return Place(path if path.startswith(_OUTSIDE) else f"{PACKAGE[kind]}/{path}", fragment)


def row_of(kind: str, pattern: str) -> Row | None:
    """The row that a key of a file belongs to: one that spells it out before one with a wildcard."""
    exact = _spelt(kind).get(pattern)
    return exact or next((row for row in rows() if row.covers(kind, pattern)), None)


@cache
def _spelt(kind: str) -> dict[str, Row]:
    return {key: row for row in reversed(rows()) for key in row.keys[kind] if "*" not in key}


def known(kind: str) -> Iterator[str]:
    """Every key of one side that is spelt out."""
    yield from _spelt(kind)


def closest(kind: str, pattern: str) -> list[str]:
    """Known keys that a key is close to: those of the same section first, then by the last name anywhere."""
    place, _, leaf = pattern.rpartition(".")
    siblings = [key for key in known(kind) if key.rpartition(".")[0] == place]
    if near := difflib.get_close_matches(pattern, siblings, 2, 0.8):
        return near
    leaves = {key.rpartition(".")[2]: key for key in known(kind)}
    return [leaves[name] for name in difflib.get_close_matches(leaf, leaves, 2, 0.85)]
