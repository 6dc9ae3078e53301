"""What a framework itself says of a training YAML before it builds a model: what is asked, and what came of it.

Written by `frameworks/inside/keys*.py` with the standard library, read by the parent with pydantic over these classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tpscope.language.answer import Failure, LogLine, TrailLine


class Complaint(StrEnum):
    """What is wrong with a key, or with the file.

    unknown: nothing of the framework reads the key. invalid: the framework's own validation refuses. layout: it
    cannot lay the ranks out. warned: it says so and goes on. unchecked: what we could not have it look at, and why.
    """

    UNKNOWN = "unknown"
    INVALID = "invalid"
    LAYOUT = "layout"
    WARNED = "warned"
    UNCHECKED = "unchecked"


@dataclass
class KeyFinding:
    """One complaint. `key` is the dotted path in the file, "" where the framework names none.

    `raises` is true where the framework stops on it. `closest` are keys that it would have read instead.
    """

    kind: Complaint
    key: str
    message: str
    raises: bool = False
    closest: list[str] = field(default_factory=list)
    where: TrailLine | None = None


@dataclass
class KeysRequest:
    """A file's content as the framework's reader would hold it, and the number of ranks that it is meant for."""

    framework: str
    data: dict[str, Any]
    config: dict[str, Any]
    world: int
    roots: list[str] = field(default_factory=list)


@dataclass
class KeysAnswer:
    """What the framework said. `mesh` has its axes and sizes, None where it could not lay them out."""

    id: str
    findings: list[KeyFinding] = field(default_factory=list)
    mesh: dict[str, int] | None = None
    known: int = 0
    packages: dict[str, str] = field(default_factory=dict)
    log: list[LogLine] = field(default_factory=list)
    shims: list[str] = field(default_factory=list)
    error: Failure | None = None
    seconds: float = 0.0
