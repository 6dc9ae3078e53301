"""Where the keys of a YAML file stand."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Lines:
    """Line numbers of a file's keys by dotted path, and the paths that only hold an anchor for others."""

    file: str
    numbers: dict[str, int] = field(default_factory=dict)
    anchors: frozenset[str] = frozenset()

    def where(self, key: str) -> str:
        """`file:line` of a key, of the nearest key around it that is in the file, or the file alone."""
        while key and key not in self.numbers:
            key = key.rpartition(".")[0]
        return f"{self.file}:{self.numbers[key]}" if key else self.file

    def named(self, message: str) -> str:
        """The key of the file that a message names, "" if it names none; the deepest one if it names several."""
        found = [
            path for path in self.numbers
            if re.search(rf"(?<![\w.]){re.escape(path.rpartition('.')[2])}(?!\w)", message)
            and len(path.rpartition(".")[2]) > 2
        ]  # fmt: skip
        return max(found, key=lambda path: (path.count("."), -self.numbers[path])) if found else ""


def lines_of(path: Path, shown: str) -> Lines:
    """The lines of a YAML file that is known to be readable."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLWarning

    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", YAMLWarning)
        root = yaml.compose(path.read_text(encoding="utf-8-sig"))
    numbers: dict[str, int] = {}
    anchors: set[str] = set()
    _walk(root, "", numbers, anchors)
    return Lines(shown, numbers, frozenset(anchors))


def _walk(node: Any, place: str, numbers: dict[str, int], anchors: set[str]) -> None:
    if node.id == "mapping":
        for key, value in node.value:
            here = f"{place}.{key.value}" if place else str(key.value)
            # A key that is written twice counts where it stands last, as its value does.
            numbers[here] = key.start_mark.line + 1
            if key.value == "<<":
                continue
            if value.anchor:
                anchors.add(here)
            _walk(value, here, numbers, anchors)
    elif node.id == "sequence":
        for index, item in enumerate(node.value):
            here = f"{place}.{index}"
            numbers[here] = item.start_mark.line + 1
            _walk(item, here, numbers, anchors)
