"""Typed access to the keys of a training YAML. What does not fit is a UserError that names file and key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tpscope.errors import UserError

_NOTHING = ("", "none", "null", "~")
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
_INTERPOLATION = re.compile(r"\$\{[^}]*\}|\{\{.*?\}\}|\$[A-Za-z_]\w*")


@dataclass(frozen=True)
class Fields:
    """One mapping of a YAML file. `prefix` is the dotted path of the mapping, with its final dot.

    A key that is absent, null or the word none is not stated. Numbers may be written as strings.
    """

    data: dict[Any, Any]
    file: str
    prefix: str = ""

    def place(self, key: str) -> str:
        """`file, key a.b.c`: how errors and notes name a key."""
        return f"{self.file}, key {self.prefix}{key}"

    def raw(self, key: str) -> Any:
        """The value as written, None where it is not stated."""
        value = self.data.get(key)
        return None if isinstance(value, str) and value.strip().lower() in _NOTHING else value

    def has(self, key: str) -> bool:
        """True if the key is there with a value."""
        return self.raw(key) is not None

    def text(self, key: str) -> str | None:
        """A string. Raises UserError for anything else, and for a value that is to be filled in later."""
        value = self._filled(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value.strip()

    def number(self, key: str) -> float | None:
        """A number, also as a string."""
        value = self._filled(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise self._wrong(key, value, "a number")
        try:
            return float(value)
        except (ValueError, OverflowError) as error:
            raise self._wrong(key, value, "a number") from error

    def whole(self, key: str) -> int | None:
        """A whole number, also as a string or as 2.0."""
        value = self.number(key)
        if value is None:
            return None
        if not value.is_integer():
            raise self._wrong(key, self.raw(key), "a whole number")
        return int(value)

    def flag(self, key: str) -> bool | None:
        """True or false, also as a word."""
        value = self._filled(key)
        if value is None or isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        if word in (*_TRUE, "1"):
            return True
        if word in (*_FALSE, "0"):
            return False
        raise self._wrong(key, value, "true or false")

    def names(self, key: str) -> tuple[str, ...] | None:
        """A list of strings, or one string on its own."""
        value = self._filled(key)
        if value is None:
            return None
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in items):
            raise self._wrong(key, value, "a string or a list of strings")
        for item in items:
            self._refuse_interpolation(key, item)
        return tuple(items)

    def section(self, key: str) -> Fields | None:
        """The mapping under a key."""
        value = self._filled(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, value, "a mapping")
        return Fields(value, self.file, f"{self.prefix}{key}.")

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """All stated values in this mapping and below, with their dotted paths."""
        for key, value in self.data.items():
            if isinstance(value, dict) and value:
                yield from Fields(value, self.file, f"{self.prefix}{key}.").leaves()
            elif self.has(key):
                yield f"{self.prefix}{key}", value

    def _filled(self, key: str) -> Any:
        value = self.raw(key)
        if isinstance(value, str):
            self._refuse_interpolation(key, value)
        return value

    def _refuse_interpolation(self, key: str, value: str) -> None:
        if interpolated(value):
            raise UserError(
                f"{self.place(key)} is {value!r}, which only the launcher's environment can fill in; "
                "write the value that the run gets"
            )

    def _wrong(self, key: str, value: Any, wanted: str) -> UserError:
        shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."
        return UserError(f"{self.place(key)} is {shown} where {wanted} is expected; correct it")


def interpolated(value: Any) -> bool:
    """True for a string with a part like `${VAR}`, `$VAR` or `{{ var }}`."""
    return isinstance(value, str) and _INTERPOLATION.search(value) is not None
