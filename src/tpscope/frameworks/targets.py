"""From what the user writes after `--with` to environments that are ready to run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

import tpscope
from tpscope.errors import NoFramework, UserError
from tpscope.frameworks import overlay, registry
from tpscope.frameworks.registry import Target
from tpscope.frameworks.runner import Environment, overlay_environment

_PROBE = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        d = m.distribution(name)
        found[name] = [d.version, str(d.locate_file("")), d.requires or []]
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def resolve(texts: list[str], python: Path | None) -> list[Target]:
    """Targets of all `--with` values, in order, without duplicates. `installed` stands for what `python` holds."""
    found: list[Target] = []
    for text in texts:
        found += installed(python) if text == "installed" else [registry.parse(text)]
    if python is not None and not texts:
        found = installed(python)
    unique = {target.id: target for target in found}
    return list(unique.values())


def installed(python: Path | None) -> list[Target]:
    """The frameworks of a Python environment of the user's own, unmodified: training frameworks before transformers."""
    interpreter = python or _their_python()
    versions = _probe(interpreter)
    known = registry.families()
    found = [
        Target(family, versions[family.distribution][0], python=interpreter)
        for family in known.values()
        if family.distribution in versions
    ]
    training = [target for target in found if target.family.name != "transformers"]
    if not found:
        raise NoFramework(
            f"{interpreter}: none of {', '.join(family.distribution for family in known.values())} is installed there; "
            "name a version instead, as in --with nemo@0.7.0"
        )
    return training or found


def environment(target: Target, say: Callable[[str], None]) -> Environment:
    """What a target runs in; its overlay is installed if it is not there yet."""
    if target.family is registry.OWN:
        return _own(say)
    if target.python is None:
        return overlay_environment(overlay.ensure(target, say))
    version, place, requires = _probe(target.python)[target.family.distribution]
    digest = f"{target.python}:{version}:{Path(place).stat().st_mtime_ns}"
    declared = {}
    for line in requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            declared[requirement.name.lower()] = f"{requirement.name}{requirement.specifier}"
    return Environment(target.python, (), (Path(place),), digest, declared)


def _own(say: Callable[[str], None]) -> Environment:
    """The overlay of transformers, with the code of the engine as its content."""
    base = environment(registry.parse(registry.OWN_STANDS_ON), say)
    folder = Path(tpscope.__file__).parent
    parts = ("engine", "frameworks/inside/tpscope")
    files = sorted(file for part in parts for file in (folder / part).glob("*.py"))
    digest = hashlib.sha256(b"".join([base.digest.encode(), *(file.read_bytes() for file in files)])).hexdigest()
    return replace(base, roots=(*base.roots, folder.parent), digest=digest)


def plan_file(text: str) -> str:
    """Check `path.py:name` and make the path absolute. Raises UserError."""
    file, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier():
        raise UserError(
            f"--custom-plan {text}: write it as path.py:name, the name of a dict or of a function in the file"
        )
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"--custom-plan {text}: there is no file {file}")
    return f"{path}:{name}"


def _their_python() -> Path:
    if active := os.environ.get("VIRTUAL_ENV"):
        candidate = Path(active) / "bin" / "python"
        if candidate.exists():
            return candidate
    if found := shutil.which("python3"):
        return Path(found)
    raise UserError("--with installed: no Python found; name the interpreter with --python PATH")


def _probe(interpreter: Path) -> dict[str, Any]:
    names = [family.distribution for family in registry.families().values()]
    try:
        done = subprocess.run(
            [str(interpreter), "-c", _PROBE, *names], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        raise UserError(f"--python {interpreter}: cannot be started ({error.strerror})") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"--python {interpreter}: is not a Python that can list its packages ({last})")
    return json.loads(done.stdout)
