"""One row at work on one file: what it reads, what it writes, and what it says of every field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tpscope.errors import UserError
from tpscope.migrate.result import Field, Verdict
from tpscope.migrate.rows import Row
from tpscope.migrate.source import Leaf, Source, number

TITLE = {"axolotl": "Axolotl", "nemo": "NeMo AutoModel"}
_DEFAULT = "(default)"


@dataclass(frozen=True)
class Ranks:
    """The ranks that a file is meant for. `data` are those that see different samples, None where nothing tells."""

    world: int | None
    tp: int = 1
    cp: int = 1
    pp: int = 1
    ep: int = 1
    data: int | None = None

    def needed(self, file: str, what: str) -> int:
        """The number of data ranks. Raises UserError where nothing tells it."""
        if self.data is None:
            raise UserError(
                f"{file}: {what} counts the data ranks, and nothing in the file says how many ranks there are; "
                "add --world N"
            )
        return self.data


@dataclass
class Written:
    """A value of the output: where it goes, and the leaf of the input that it stands for.

    `order` is the leaf's place in the input, None for a value that the input does not have; `section` is the row's.
    """

    path: str
    value: Any
    leaf: Leaf | None
    order: int | None
    section: str = ""


@dataclass
class Draft:
    """The output as it grows."""

    to: str
    written: dict[str, Written] = field(default_factory=dict)
    fields: list[Field] = field(default_factory=list)
    rows: list[tuple[Field, Row]] = field(default_factory=list)


@dataclass
class Job:
    """What a row's function works with. It must account for every leaf of the row: what it does not is `dropped`."""

    row: Row
    source: Source
    draft: Draft
    ranks: Ranks
    samples: int | None
    leaves: list[Leaf]
    said: set[str] = field(default_factory=set)

    @property
    def kind(self) -> str:
        """The framework that the file is written for."""
        return self.source.kind

    @property
    def to(self) -> str:
        """The framework that it becomes a file of."""
        return self.draft.to

    def get(self, path: str) -> Any:
        """The value of the input at a path, numbers as numbers; None where nothing is stated."""
        value = self.source.get(path)
        return number(value) if isinstance(value, str) else value

    def first(self, *paths: str) -> tuple[str, Any]:
        """The first of several paths that is stated, with its value; ("", None) for none."""
        return next(((path, self.get(path)) for path in paths if self.get(path) is not None), ("", None))

    def leaf(self, path: str) -> Leaf | None:
        """The leaf at a path."""
        return next((leaf for leaf in self.source.leaves if leaf.path == path), None)

    def put(self, target: str, value: Any, verdict: Verdict, of: str | list[str] = "", reason: str = "") -> None:
        """Write a value, and say what became of the fields `of` (a path or several; none for a default)."""
        paths = [of] if isinstance(of, str) and of else list(of) if of else []
        leaf = self.leaf(paths[0]) if paths else None
        if target and target not in self.draft.written:
            order = self.source.leaves.index(leaf) if leaf else None
            self.draft.written[target] = Written(target, value, leaf, order, self.row.section)
        if not paths:
            self._say("", target, verdict, reason, None, value, 0)
        for path in paths:
            self.say(path, verdict, reason, target, value)

    def say(self, path: str, verdict: Verdict, reason: str = "", target: str = "", value: Any = None) -> None:
        """Say what became of a leaf; of several sayings the first counts."""
        leaf = self.leaf(path)
        if leaf is None or path in self.said:
            return
        self.said.add(path)
        self._say(path, target, verdict, reason, leaf.value, value, leaf.line)

    def lose(self, path: str, reason: str = "", verdict: Verdict | None = None) -> None:
        """Nothing is written for a leaf: dropped, or what the row says; exact where its value asks for nothing."""
        leaf = self.leaf(path)
        if leaf is None:
            return
        if self.asks_nothing(leaf.value):
            self.say(path, Verdict.EXACT, f"asks for nothing, as where {TITLE[self.to]} is told nothing")
        else:
            self.say(path, verdict or self.row.verdict or Verdict.DROPPED, reason or self.row.reason)

    def asks_nothing(self, value: Any) -> bool:
        """True for null, false and empty values, and for those that the row lists as `off`."""
        if value in (None, False, "", [], {}) and not (value == 0 and not isinstance(value, bool)):
            return True
        off = [str(item) for item in self.row.off]
        return (isinstance(value, str) and value.strip().lower() in ("none", "null")) or str(value) in off

    def _say(
        self, source: str, target: str, verdict: Verdict, reason: str, before: Any, after: Any, line: int
    ) -> None:  # fmt: skip
        made = Field(source, target, verdict, reason, [], plain(before), plain(after), line)
        self.draft.fields.append(made)
        self.draft.rows.append((made, self.row))


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return str(value)
