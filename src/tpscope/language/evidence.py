"""What a sentence about a framework rests on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


class Drift(ValueError):
    """The installed source no longer says what was quoted."""


@dataclass(frozen=True)
class Evidence:
    """A quoted fragment of an installed source file. The line is derived from the fragment, never stored alone.

    `path` is relative to the overlay (or site-packages) that `package` at `version` was read from.
    """

    package: str
    version: str
    path: str
    symbol: str
    fragment: str
    sha256: str

    def line(self, root: Path) -> int:
        """1-based line where the fragment stands under `root`. Raises Drift if it is gone or no longer unique."""
        text = (root / self.path).read_text(encoding="utf-8")
        found = [number for number, line in enumerate(text.splitlines(), 1) if self.fragment in line]
        if not found:
            raise Drift(f"{self.path}: the fragment {self.fragment!r} is not there any more")
        return found[0]

    def unchanged(self, root: Path) -> bool:
        """True if the whole file is byte for byte the one that was quoted."""
        return sha256_of(root / self.path) == self.sha256


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
