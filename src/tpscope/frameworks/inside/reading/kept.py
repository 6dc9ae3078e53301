"""What a framework's source reads off its configuration, worked out once and kept: parsing it takes seconds.

The folder is one of this framework's version and of this code, so that nothing in it goes stale.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tpscope.frameworks.inside import keys_nemo_unknown
from tpscope.frameworks.inside.reads import Reads


def keep(folder: str) -> None:
    """Have the reading ask the folder first."""
    keys_nemo_unknown.reads_of = _kept(Path(folder), keys_nemo_unknown.reads_of, _reads, _plain)
    keys_nemo_unknown.imported = _kept(Path(folder), keys_nemo_unknown.imported, list, list)


def _kept(
    folder: Path, work: Callable[..., Any], loaded: Callable[[Any], Any], plain: Callable[[Any], Any]
) -> Callable[..., Any]:
    def found(root: str, files: list[str], *more: str) -> Any:
        words = json.dumps([work.__name__, root, files, more])
        file = folder / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.json"
        try:
            return loaded(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            made = work(root, files, *more)
        folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(plain(made)), encoding="utf-8")
        partial.replace(file)
        return made

    return found


def _plain(reads: Reads) -> dict[str, Any]:
    return {"paths": reads.paths, "words": sorted(reads.words), "starts": sorted(reads.starts)}


def _reads(plain: dict[str, Any]) -> Reads:
    paths = {key: (name, line) for key, (name, line) in plain["paths"].items()}
    return Reads(paths, set(plain["words"]), set(plain["starts"]))
