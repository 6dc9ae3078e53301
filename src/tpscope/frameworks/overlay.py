"""Closed overlays: a framework at a version, with the closure that its own metadata asks for, in a folder of its own.

Installed under a temporary name and renamed when whole, under a file lock: a killed install leaves nothing that a
later run would take for an overlay, and two installs at once do the work once.
"""

from __future__ import annotations

import hashlib
import importlib.metadata as metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from importlib import resources
from pathlib import Path

import uv
from filelock import FileLock
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from tpscope.errors import UserError
from tpscope.frameworks.base import cache_root, python_tag, torch_version
from tpscope.frameworks.registry import Target

MANIFEST = "tpscope-overlay.json"
# torch comes from the base; these follow its build and are not imported on a CPU.
_FROM_BASE = ("torch", "torchvision", "torchaudio", "xformers")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Overlay:
    """An installed overlay: its folder, the checkout in front of it if any, and what it holds."""

    path: Path
    packages: dict[str, str]
    declared: dict[str, str]
    sources: tuple[Path, ...]

    @property
    def digest(self) -> str:
        """Names this content: changes when a package or a checked-out source file changes."""
        parts = [f"{name}=={version}" for name, version in sorted(self.packages.items())]
        for source in self.sources[:-1]:
            files = sorted(source.rglob("*.py"))
            parts += [f"{file.relative_to(source)}:{file.stat().st_mtime_ns}:{file.stat().st_size}" for file in files]
        return hashlib.sha256("\n".join([*parts, torch_version(), python_tag()]).encode()).hexdigest()


def overlays_root() -> Path:
    """The folder that holds all overlays."""
    return cache_root() / "overlays"


def overlay_path(target: Target) -> Path:
    """Where the overlay of a target is, or would be."""
    label = target.version if target.checkout is None else f"checkout-{_digest(str(target.checkout))}"
    return overlays_root() / f"{target.family.name}-{label}-{python_tag()}-torch{torch_version()}"


def installed(target: Target) -> Overlay | None:
    """The overlay of a target if it is whole, else None."""
    path = overlay_path(target)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    sources = (path,) if target.checkout is None else (_source_root(target.checkout), path)
    return Overlay(path, manifest["packages"], manifest["declared"], sources)


def ensure(target: Target, say: Say) -> Overlay:
    """The overlay of a target, installed if it is not there yet.

    Raises UserError when the package index cannot be reached, has no such version, or the disk is full; what was
    there before stays as it was.
    """
    if found := installed(target):
        return found
    path = overlay_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if found := installed(target):
            return found
        for stale in path.parent.glob(f".{path.name}.*"):
            shutil.rmtree(stale, ignore_errors=True)
        partial = path.parent / f".{path.name}.{os.getpid()}"
        try:
            _fill(target, partial, say)
            partial.rename(path)
        except OSError as error:
            raise UserError(
                f"could not install {target.id}: {error.strerror or error} ({path.parent}); free some space or set "
                "TPSCOPE_CACHE to another folder, then run the same command again"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    found = installed(target)
    assert found is not None
    return found


def remove(target: Target) -> bool:
    """Delete the overlay of a target. False if there was none."""
    path = overlay_path(target)
    if not path.is_dir():
        return False
    with FileLock(f"{path}.lock"):
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)
    Path(f"{path}.lock").unlink(missing_ok=True)
    return True


def _fill(target: Target, partial: Path, say: Say) -> None:
    say(f"{target.id}: reading its metadata")
    with tempfile.TemporaryDirectory() as scratch:
        framework = str(target.checkout) if target.checkout else f"{target.family.distribution}=={target.version}"
        _uv(["pip", "install", "--no-deps", "--target", scratch, framework], target)
        declared = _declared(Path(scratch), target.family.distribution)
        lock = _locked(target) or _resolve(target, declared, say)
        say(f"{target.id}: installing {len(lock) + 1} packages (torch {torch_version()} comes from the base)")
        requirements = Path(scratch) / "requirements.txt"
        wanted = lock if target.checkout else [framework, *lock]
        requirements.write_text("\n".join(wanted), encoding="utf-8")
        _uv(["pip", "install", "--no-deps", "--target", str(partial), "-r", str(requirements)], target, show=True)
    say(f"{target.id}: compiling")
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "2", str(partial)], capture_output=True, check=False
    )
    packages = {canonicalize_name(dist.name): dist.version for dist in metadata.distributions(path=[str(partial)])}
    manifest = {"id": target.id, "packages": packages, "declared": declared}
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")


def resolve(target: Target, say: Say) -> list[str]:
    """The pinned closure of a target as its metadata asks for it today: lines `name==version`."""
    with tempfile.TemporaryDirectory() as scratch:
        framework = f"{target.family.distribution}=={target.version}"
        _uv(["pip", "install", "--no-deps", "--target", scratch, framework], target)
        return _resolve(target, _declared(Path(scratch), target.family.distribution), say)


def _resolve(target: Target, declared: dict[str, str], say: Say) -> list[str]:
    family = target.family
    asked = [declared[canonicalize_name(name)] for name in family.pinned if canonicalize_name(name) in declared]
    asked += [declared.get(canonicalize_name(name), name) for name in family.needed]
    if family.name == "transformers":
        asked.insert(0, f"transformers=={target.version}")
    say(f"{target.id}: resolving {', '.join(asked[:4])}, ...")
    with tempfile.TemporaryDirectory() as scratch:
        wanted, override = Path(scratch) / "in.txt", Path(scratch) / "override.txt"
        wanted.write_text("\n".join(asked), encoding="utf-8")
        override.write_text("\n".join(f'{name} ; python_version < "0"' for name in _FROM_BASE), encoding="utf-8")
        command = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--override", str(override)]
        day = released(target)
        when = ["--exclude-newer", (day + timedelta(days=1)).isoformat()] if day else []
        lines = _uv([*command, *when, str(wanted)], target).splitlines()
    pins = [line.strip() for line in lines if "==" in line]
    return [line for line in pins if canonicalize_name(line.split("==")[0]) != canonicalize_name(family.distribution)]


def released(target: Target) -> date | None:
    """The day on which a version came out, by asking the index whether it was there by a given day; None for a
    checkout, or if the index does not tell days. Packages without an upper bound are taken as of then: a version is
    run with what its users got, not with what came out since."""
    if target.checkout is not None or not _known_by(target, date.today()):
        return None
    early, late = date(2018, 1, 1), date.today()
    if _known_by(target, early):
        return None
    while (late - early).days > 1:
        middle = early + (late - early) // 2
        early, late = (early, middle) if _known_by(target, middle) else (middle, late)
    return late


def _known_by(target: Target, day: date) -> bool:
    command = [uv.find_uv_bin(), "pip", "compile", "--quiet", "--no-deps", "--exclude-newer", day.isoformat(), "-"]
    command += ["--python", sys.executable, *_index_options()]
    wanted = f"{target.family.distribution}=={target.version}"
    return subprocess.run(command, input=wanted, capture_output=True, text=True, check=False).returncode == 0


def _locked(target: Target) -> list[str] | None:
    if target.checkout is not None:
        return None
    lock = resources.files("tpscope.frameworks") / "locks" / f"{target.family.name}-{target.version}.txt"
    return lock.read_text(encoding="utf-8").split() if lock.is_file() else None


def _declared(root: Path, distribution: str) -> dict[str, str]:
    """Requirement lines of a distribution by package, as far as their markers hold here; `torch` among them."""
    dist = next(iter(metadata.distributions(name=distribution, path=[str(root)])))
    found: dict[str, str] = {}
    for line in dist.requires or []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            requirement.marker = None
            requirement.extras = set()
            found[canonicalize_name(requirement.name)] = str(requirement)
    return found


def _uv(arguments: list[str], target: Target, show: bool = False) -> str:
    """Run uv with the user's own pip settings. `show` lets its progress through to a terminal."""
    command = [uv.find_uv_bin(), *arguments, "--python", sys.executable, *_index_options()]
    visible = show and sys.stderr.isatty()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=None if visible else subprocess.PIPE, text=True)
    if done.returncode == 0:
        return done.stdout
    words = " ".join((done.stderr or "").split())
    raise UserError(f"could not install {target.id}: {_reason(words)}; nothing was left behind, run it again to retry")


def _reason(words: str) -> str:
    lowered = words.lower()
    if "no space left" in lowered or "os error 28" in lowered:
        return f"the disk is full ({cache_root()}); free some space or set TPSCOPE_CACHE to another folder"
    if any(sign in lowered for sign in ("failed to fetch", "error sending request", "dns error", "connect")):
        return (
            "the package index cannot be reached; check the network, or put wheels into a folder and set TPSCOPE_WHEELS"
        )
    if "no version of" in lowered or "no solution" in lowered:
        return f"no such set of packages: {words.rpartition('error: ')[2][:300]}"
    return words[:400] or "see the messages above"


def _index_options() -> list[str]:
    if wheels := os.environ.get("TPSCOPE_WHEELS"):
        return ["--no-index", "--find-links", wheels]
    return []


def _source_root(checkout: Path) -> Path:
    return checkout / "src" if (checkout / "src").is_dir() else checkout


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def all_installed() -> Iterable[tuple[Path, dict[str, str]]]:
    """Every whole overlay in the cache with its manifest."""
    for path in sorted(overlays_root().glob("*/" + MANIFEST)):
        yield path.parent, json.loads(path.read_text(encoding="utf-8"))
