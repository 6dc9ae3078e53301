"""The local Hugging Face cache, read as files: `models--ORG--NAME/refs/main` names a directory under `snapshots`."""

from __future__ import annotations

import os
import re
from pathlib import Path

HUB_ID = re.compile(r"^(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*$")


def root() -> Path:
    """Where the cache is, by the environment variables that huggingface_hub reads."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(variable):
            return Path(value).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "huggingface" / "hub"


def snapshot(hub_id: str, revision: str | None = None) -> Path | None:
    """The directory of a cached model's files at a branch, tag or commit (default: main), or None."""
    folder = _folder(hub_id)
    if folder is None:
        return None
    wanted = revision or "main"
    if ".." in Path(wanted).parts or Path(wanted).is_absolute():
        return None
    reference = folder / "refs" / wanted
    commit = reference.read_text(encoding="utf-8", errors="replace").strip() if reference.is_file() else wanted
    found = folder / "snapshots" / commit
    return found if commit and found.is_dir() else None


def _folder(hub_id: str) -> Path | None:
    name = "models--" + hub_id.replace("/", "--")
    exact = root() / name
    if exact.is_dir():
        return exact
    if not root().is_dir():
        return None
    # The hub answers to an id in any case; the cache keeps the case in which it was asked.
    folders = (item for item in sorted(root().iterdir()) if item.is_dir())
    return next((item for item in folders if item.name.lower() == name.lower()), None)
