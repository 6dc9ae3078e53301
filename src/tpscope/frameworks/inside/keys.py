"""The framework's own reading of a training YAML: its schema, its validation, its layout. No model is built."""

from __future__ import annotations

import difflib
import importlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tpscope.frameworks.inside import world
from tpscope.frameworks.inside.case import listening, packages
from tpscope.frameworks.inside.params import axis
from tpscope.frameworks.inside.trace import failure, ours
from tpscope.language.answer import Failure, TrailLine, to_json
from tpscope.language.keys import Complaint, KeyFinding, KeysAnswer, KeysRequest


class Reading:
    """One file on its way through a framework, with what was found."""

    def __init__(self, request: KeysRequest):
        self.request = request
        self.answer = KeysAnswer(id=request.framework, packages=packages(request.roots))

    @property
    def roots(self) -> list[str]:
        """Folders that hold the framework's source."""
        return self.request.roots

    def add(
        self, kind: Complaint, key: str, message: str, *, raises: bool = False,
        closest: Iterable[str] = (), where: TrailLine | None = None,
    ) -> None:  # fmt: skip
        """Note one complaint, once."""
        found = KeyFinding(kind, key, " ".join(message.split())[:900], raises, list(closest), where)
        if all((other.kind, other.key, other.message) != (kind, key, found.message) for other in self.answer.findings):
            self.answer.findings.append(found)

    def shim(self, text: str) -> None:
        """List a place where we stand in for something of the launcher or the hardware."""
        if text not in self.answer.shims:
            self.answer.shims.append(text)

    @contextmanager
    def step(self, kind: Complaint, key: str) -> Iterator[None]:
        """Run a step of the framework; what it raises is a complaint about `key`, in its own words."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever the framework raises is the answer to this step
            self.raised(error, kind, key)

    def raised(self, error: BaseException, kind: Complaint, key: str) -> None:
        """What an exception says: the framework's refusal, or (a package or a device that is not here) unchecked."""
        found, _ = failure(error, kind.value, self.roots)
        missing = isinstance(error, ImportError)
        words = str(error)
        if missing or ours(error) or "CUDA" in words or "NVIDIA driver" in words or "outgoing traffic" in words:
            message = f"could not be looked at here: {found.kind}: {found.message}"
            self.add(Complaint.UNCHECKED, key, message, where=found.where)
            return
        message = f"{found.kind}: {found.message}"
        for other in self.answer.findings:
            if f"'{other.key.rpartition('.')[2]}'" in message:
                # The framework refuses what was already seen to be unknown: its own words count.
                other.kind, other.raises = Complaint.INVALID, True
                other.message, other.where = message, found.where or other.where
                return
        self.add(kind, key, message, raises=True, where=found.where)


def near(key: str, known: Iterable[str]) -> list[str]:
    """The known keys that a misspelt one is closest to."""
    plain = {name.lower().replace("-", "_"): name for name in known}
    found = difflib.get_close_matches(key.lower().replace("-", "_"), plain, 2, 0.8)
    return [plain[name] for name in found]


def run(family: str, request_file: str, answer_file: str, problem: str | None) -> None:
    """Answer one request file into one answer file."""
    request = KeysRequest(**json.loads(Path(request_file).read_text(encoding="utf-8")))
    reading = Reading(request)
    started = time.perf_counter()
    os.chdir(Path(answer_file).parent)
    if problem:
        last = problem.strip().splitlines()[-1]
        reading.answer.error = Failure("ImportError", last, "import", None, problem[-6000:])
    else:
        module = importlib.import_module(f"tpscope.frameworks.inside.keys_{family}")
        with listening(reading.answer.log):
            try:
                module.read(reading)
            except BaseException as error:  # noqa: BLE001 - a framework's crash is an answer, never a crash of ours
                reading.answer.error = failure(error, "keys", request.roots)[0]
            finally:
                world.stop()
    reading.answer.seconds = round(time.perf_counter() - started, 3)
    partial = Path(f"{answer_file}.partial")
    partial.write_text(json.dumps(to_json(reading.answer)), encoding="utf-8")
    partial.rename(answer_file)


def sizes_of(mesh: Any) -> dict[str, int]:
    """Axis names and sizes of a device mesh, in the framework's order."""
    return dict(zip(map(axis, mesh.mesh_dim_names), (int(size) for size in mesh.mesh.shape), strict=True))
