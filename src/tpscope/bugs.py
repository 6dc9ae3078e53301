"""The bug book: known framework bugs, one TOML a bug under `bugs/`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

_TP_SIZE = re.compile(r"(?:tp_size|tensor_parallel_size)\s*([=>])\s*(\w+)")
_INSTALLED = Path(__file__).resolve().parent / "bug_book"
BOOK = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[2] / "bugs"


class BadEntry(ValueError):
    """A file of the bug book that does not say what an entry must say."""


@dataclass(frozen=True)
class Expected:
    """What `prove` says of the bug on one version. `said`: words of what a framework raises there.

    `first`: the entry of another fault that comes first there, so that what `prove` says is that one's doing.
    """

    framework: str
    verdict: str
    cause: str = ""
    said: str = ""
    first: str = ""


@dataclass(frozen=True)
class Bug:
    """One known bug: of which package, in which versions, and when it bites.

    `affected` and `fixed` are versions of the package `framework`, which may be one that a training framework pins
    (transformers, peft, accelerate). `model_types`, `scenario`, `settings` and `families` (the training frameworks that
    run into it) narrow it down; empty means always.
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
    range_evidence: str = ""
    script: str = ""
    note: str = ""
    also: tuple[str, ...] = ()
    families: tuple[str, ...] = ()

    def covers(self, version: str) -> bool:
        """True if a version of the package has the bug."""
        return SpecifierSet(self.affected).contains(version.split("+")[0], prereleases=True)

    @property
    def link(self) -> str:
        """Where it was reported, "" if nowhere."""
        return self.reported if self.reported.startswith("http") else ""

    @property
    def own(self) -> tuple[Expected, ...]:
        """What this bug alone makes `prove` say: the expectations that explain a proof."""
        return tuple(item for item in self.expected if not item.first)

    @property
    def shown_by_prove(self) -> bool:
        """True if the entry's own command is a proof; what no proof reaches explains no proof."""
        return self.command.startswith("tpscope prove ")

    def reaches(self, framework: str) -> bool:
        """True if a framework (`axolotl@0.19.0`) runs the code that has the bug, as the entry knows it.

        Axolotl hands tensor parallelism to transformers, PEFT and accelerate; NeMo has plans and a loop of its own. An
        entry that is only expected of a variant (`nemo@0.7.0+hf`) is about that variant.
        """
        family, _, version = framework.partition("@")
        if self.families and family not in self.families:
            return False
        bad = [item.framework for item in self.expected if item.verdict != "equal"]
        if bad and all("+" in name for name in bad) and "+" not in version:
            return False
        named = {name.partition("@")[0] for name in bad} | {self.framework}
        on_top = {"axolotl": ("transformers", "peft", "accelerate"), "transformers": ("peft", "accelerate")}
        return family in named or self.framework in on_top.get(family, ())


@dataclass(frozen=True)
class Seen:
    """What a proof found, as far as the book can explain it. `packages` are the versions that the framework ran with,
    `said` is what it raised.

    `model_type` is what the config calls the model, `causes` are those of the diagnosis, `sizes` are numbers of the
    model that an entry may name, such as num_key_value_heads.
    """

    framework: str
    packages: dict[str, str]
    model_type: str
    scenario: str
    tp: int
    verdict: str
    causes: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    said: str = ""


def explains(bug: Bug, seen: Seen) -> bool:
    """True if an entry expects what was seen: package version, model type, scenario, and verdict with its cause."""
    family, _, version = seen.framework.partition("@")
    versions = {**seen.packages, family: version}
    parts = {"plain", "tied", *seen.scenario.split("+")}  # tied is what a model is, whatever way it trains
    return (
        bug.shown_by_prove
        and bug.reaches(seen.framework)
        and bug.framework in versions
        and bug.covers(versions[bug.framework])
        and (not bug.model_types or seen.model_type in bug.model_types)
        and set((bug.scenario or "plain").split("+")) <= parts
        and all(_size_holds(setting, seen) for setting in bug.settings)
        and any(
            item.verdict == seen.verdict and item.cause in ("", *seen.causes) and item.said in seen.said
            for item in bug.own
        )
    )


def unexplained(seen: Seen, book: tuple[Bug, ...] | None = None) -> list[str]:
    """Causes of a difference that no entry expects; `no cause named` where the diagnosis has none."""
    entries = load() if book is None else book
    found = seen.causes or ("no cause named",)
    return [cause for cause in found if not any(explains(bug, replace(seen, causes=(cause,))) for bug in entries)]


def _size_holds(setting: str, seen: Seen) -> bool:
    """False for a tp size that the entry excludes. Other settings are what the scenario makes of them."""
    asked = _TP_SIZE.fullmatch(setting.strip())
    if asked is None:
        return True
    size = int(asked[2]) if asked[2].isdigit() else seen.sizes.get(asked[2])
    return size is not None and (seen.tp == size if asked[1] == "=" else seen.tp > size)


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
            id=table["id"], title=table["title"].rstrip("."), framework=table["framework"],
            what=" ".join(table["what"].split()), reported=table.get("reported", ""), affected=table["affected"],
            fixed=table.get("fixed", ""), command=table.get("command", ""), model_types=_many(when.get("model_types")),
            scenario=when.get("scenario", ""), settings=_many(when.get("settings")),
            families=_many(when.get("families")),
            expected=tuple(
                Expected(
                    item["with"], item["verdict"], item.get("cause", ""), item.get("said", ""), item.get("first", "")
                )
                for item in table.get("expected", [])
            ),
            range_evidence=table.get("range_evidence", ""), script=table.get("script", ""),
            note=table.get("note", ""), also=_many(table.get("also")),
        )  # fmt: skip
    except (tomllib.TOMLDecodeError, KeyError, InvalidSpecifier) as error:
        raise BadEntry(f"{file}: {error}") from error


def _many(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else ((value,) if value else ())
