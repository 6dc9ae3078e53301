"""The terms of the glossary, and the words of the field that a reader may not know: report/terms.toml."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Term:
    """One term: its name, what it means here, and a pattern for its spellings."""

    name: str
    meaning: str
    spelled: str

    def occurs(self, text: str) -> bool:
        """True if a text has the term in one of its spellings."""
        return re.search(rf"(?<![\w-])(?:{self.spelled})(?![\w-])", text, re.I) is not None


_READ = tomllib.loads(files("tpscope.report").joinpath("terms.toml").read_text(encoding="utf-8"))
TERMS = tuple(Term(item["name"], " ".join(item["meaning"].split()), item["spelled"]) for item in _READ["term"])
WORDS: tuple[str, ...] = tuple(_READ["words"])
