"""Published configurations that come with tpscope: `catalog/*.json`, each with where it was taken from."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from tpscope.errors import UserError
from tpscope.models.spec import ModelSpec, architecture_of


@dataclass(frozen=True)
class Entry:
    """One published config. `status` is `confirmed` where the file itself was seen, else `unconfirmed`.

    `published_parameters` is the count that its publisher states; `parameters_not_built` are those of them that
    the model class does not build (`count`, `why`).
    """

    name: str
    hub_ids: tuple[str, ...]
    status: str
    source: dict[str, str]
    config: dict[str, Any]
    notes: str = ""
    published_parameters: int | None = None
    published_parameters_source: str | None = None
    published_parameters_text: str | None = None
    parameters_not_built: dict[str, Any] | None = None

    def spec(self) -> ModelSpec:
        """The entry as a model, with a config of its own to change."""
        return ModelSpec(
            name=self.name,
            architecture=architecture_of(self.config),
            model_type=self.config["model_type"],
            config=json.loads(json.dumps(self.config)),
            source=f"catalog {self.name} ({self.status}), from {self.source['retrieved_from']}",
            status=self.status,
            notes=(self.notes,) if self.notes else (),
        )


@lru_cache(maxsize=1)
def _entries() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for file in sorted(resources.files("tpscope.models").joinpath("catalog").iterdir(), key=lambda item: item.name):
        if file.name.endswith(".json"):
            raw = json.loads(file.read_text(encoding="utf-8"))
            found[raw["name"]] = Entry(**{**raw, "hub_ids": tuple(raw["hub_ids"])})
    return found


def names() -> tuple[str, ...]:
    """All catalog names, in alphabetical order."""
    return tuple(_entries())


def by_name(text: str) -> Entry | None:
    """The entry of that name, in any case, or None."""
    return _entries().get(text.lower())


def by_hub_id(text: str) -> Entry | None:
    """The entry that stands for a Hugging Face id (`org/name`), in any case, or None."""
    wanted = text.lower()
    return next((item for item in _entries().values() if wanted in map(str.lower, item.hub_ids)), None)


def entry(text: str) -> Entry:
    """The entry by name or hub id, in any case. Raises UserError with the closest names if there is none."""
    if found := by_name(text) or by_hub_id(text):
        return found
    raise UserError(f"{text} is not in the catalog; {closest(text)}")


def near(text: str) -> list[str]:
    """Up to three catalog names that the user may have meant, the likeliest first."""
    words = text.lower().rpartition("/")[2]
    return (
        difflib.get_close_matches(words, names(), 3, 0.5) or [name for name in names() if words and words in name][:3]
    )


def closest(text: str) -> str:
    """`the closest names are ...`: what the user may have meant, or all names where nothing is close."""
    if found := near(text):
        return f"the closest names are {', '.join(found)}"
    return f"the catalog has {', '.join(names())}"
