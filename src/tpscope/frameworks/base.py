"""The base that every overlay stands on: torch and torch's own dependencies, and nothing else of our environment.

A folder of links to those packages stands in for site-packages, so that what a framework imports comes either from
its own overlay or from torch's closure, by construction.
"""

from __future__ import annotations

import hashlib
import importlib.metadata as metadata
import os
import re
import sys
from pathlib import Path

import platformdirs
from packaging.requirements import Requirement


def cache_root() -> Path:
    """Where overlays and answers are kept: `TPSCOPE_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("TPSCOPE_CACHE") or platformdirs.user_cache_path("tpscope"))


def torch_version() -> str:
    """Version of the torch that overlays run on, without importing it."""
    return metadata.version("torch")


def python_tag() -> str:
    """Python and platform that an overlay's wheels fit, e.g. `cp311-linux`."""
    return f"cp{sys.version_info.major}{sys.version_info.minor}-{sys.platform}"


def base_path() -> Path:
    """A folder that holds torch and its dependencies, as links into our environment. Made when missing."""
    closure = _closure("torch")
    names = sorted(f"{name}=={dist.version}" for name, dist in closure.items())
    places = sorted({str(dist.locate_file("")) for dist in closure.values()})
    key = hashlib.sha256("\n".join(names + places).encode()).hexdigest()[:12]
    target = cache_root() / "base" / f"{python_tag()}-torch{torch_version()}-{key}"
    if target.is_dir():
        return target
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    for dist in closure.values():
        for top in {file.parts[0] for file in dist.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            link = partial / top
            if not link.is_symlink():
                link.symlink_to(str(dist.locate_file(top)))
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    return target


def _closure(name: str) -> dict[str, metadata.Distribution]:
    found: dict[str, metadata.Distribution] = {}
    waiting = [name]
    while waiting:
        canonical = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if canonical in found:
            continue
        try:
            found[canonical] = metadata.distribution(canonical)
        except metadata.PackageNotFoundError:
            continue
        for line in found[canonical].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found
