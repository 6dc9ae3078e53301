"""Which frameworks there are, and how a user names one: `nemo@0.7.0`, `nemo@0.7.0+hf`, `nemo@./checkout`."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import tpscope
from tpscope.errors import UserError


@dataclass(frozen=True)
class Family:
    """One framework, all versions: a table of registry.toml."""

    name: str
    title: str
    distribution: str
    module: str
    versions: tuple[str, ...]
    pinned: tuple[str, ...]
    needed: tuple[str, ...]
    variants: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """One column: a family at a version, a checkout of it, or a Python environment of the user's own."""

    family: Family
    version: str
    variant: str = ""
    checkout: Path | None = None
    python: Path | None = None

    @property
    def id(self) -> str:
        """The name that the user knows this column by."""
        variant = f"+{self.variant}" if self.variant else ""
        return f"{self.family.name}@{self.version}{variant}" + (" (installed)" if self.python else "")


# The engine of this package, in an overlay of transformers and PEFT: proven beside the others, not compared.
OWN = Family("tpscope", "tpscope's own engine", "tpscope", "tpscope", (tpscope.__version__,), (), (), ())
OWN_STANDS_ON = "transformers@5.23.0"


@cache
def families() -> dict[str, Family]:
    """Every framework of registry.toml by name."""
    text = (resources.files("tpscope.frameworks") / "registry.toml").read_text(encoding="utf-8")
    return {name: _family(name, table) for name, table in tomllib.loads(text).items()}


def _family(name: str, table: dict[str, Any]) -> Family:
    lists = {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
    return Family(name, table["title"], table["distribution"], table["module"], **lists)


def family(name: str) -> Family:
    """The framework called `name`. Raises UserError with the closest names."""
    known = {**families(), OWN.name: OWN}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise UserError(f"--with {name}: no framework of that name (known: {', '.join(known)}){hint}")


def parse(text: str) -> Target:
    """Read one `--with` value. Raises UserError on a name, version or path that cannot be meant."""
    name, at, rest = text.partition("@")
    if not at:
        fam = family(name)
        return Target(fam, fam.versions[-1])
    fam = family(name)
    if rest.startswith((".", "/", "~")):
        checkout = Path(rest).expanduser().resolve()
        if not (checkout / "pyproject.toml").is_file() and not (checkout / "setup.py").is_file():
            raise UserError(f"--with {text}: {rest} is not a source checkout (no pyproject.toml or setup.py in it)")
        return Target(fam, rest, checkout=checkout)
    version, _, variant = rest.partition("+")
    if not re.fullmatch(r"\d+(\.\d+)*([a-z]+\d+)?(\.\w+\d*)?", version):
        raise UserError(f"--with {text}: {version!r} is not a version; write {name}@{fam.versions[-1]}")
    if variant and variant not in fam.variants:
        known = ", ".join(f"{name}@{version}+{item}" for item in fam.variants) or "none"
        raise UserError(f"--with {text}: {name} has no variant {variant!r} (known: {known})")
    return Target(fam, version, variant)
