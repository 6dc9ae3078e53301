"""One case: build the answer of one framework to one request, phase by phase."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata as metadata
import io
import json
import logging
import os
import re
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tpscope.frameworks.inside.trace import failure, ours
from tpscope.language.answer import Failure, FrameworkAnswer, LogLine, Request, to_json
from tpscope.language.layout import Layout, Lora
from tpscope.language.verdict import Status

IMPORT_SECONDS = 0.0


class Refused(Exception):
    """The framework declined in words of its own that came through no exception."""

    def __init__(self, status: Status, error: Failure):
        super().__init__(error.message)
        self.status = status
        self.error = error


@dataclass
class Case:
    """A request on its way to an answer, with what the phases share."""

    request: Request
    answer: FrameworkAnswer
    folder: Path
    small_folder: Path | None
    phase: str = "start"
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def roots(self) -> list[str]:
        """Folders that hold the framework's source."""
        return self.request.roots

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Name what is going on, for errors and timings."""
        self.phase = phase
        started = time.perf_counter()
        yield
        self.answer.seconds[phase] = round(time.perf_counter() - started, 4)

    def setting(self, family: str, key: str) -> Any:
        """A key of the user's own file, if it is a file of this framework."""
        mine = self.request.training.get("kind") == family
        return self.request.training.get("settings", {}).get(key) if mine else None

    def shim(self, text: str) -> None:
        """List a place where we stand in for something of the launcher or the hardware."""
        if text not in self.answer.shims:
            self.answer.shims.append(text)

    def optional(self, phase: str, step: Callable[[], None]) -> None:
        """Run a step whose failure must not cost the rest of the answer; what it raised is kept in the answer."""
        with self.during(phase):
            try:
                step()
            except Exception as error:  # noqa: BLE001 - whatever the framework raises is the answer to this step
                self.answer.forward.setdefault("not_run", {})[phase] = to_json(failure(error, phase, self.roots)[0])


def preload(family: str) -> str | None:
    """Import what every case of a framework needs. Returns the traceback if that fails; each case then reports it."""
    try:
        importlib.import_module(f"tpscope.frameworks.inside.{family}").preload()
    except BaseException:  # noqa: BLE001 - an import that dies is an answer too
        return traceback.format_exc()
    return None


def run(family: str, request_file: str, answer_file: str, problem: str | None) -> None:
    """Answer one request file into one answer file."""
    request = read(json.loads(Path(request_file).read_text(encoding="utf-8")))
    answer = FrameworkAnswer(id=request.framework, environment={"packages": packages(request.roots)})
    answer.seconds["import"] = round(IMPORT_SECONDS, 3)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tpscope-") as scratch:
        _answer(family, request, answer, Path(scratch), problem)
    answer.seconds["case"] = round(time.perf_counter() - started, 3)
    partial = Path(f"{answer_file}.partial")
    partial.write_text(json.dumps(to_json(answer)), encoding="utf-8")
    partial.rename(answer_file)


def _answer(family: str, request: Request, answer: FrameworkAnswer, scratch: Path, problem: str | None) -> None:
    if problem:
        answer.status = Status.UNSUPPORTED if "ModuleNotFoundError" in problem else Status.CRASHED
        answer.error = Failure("ImportError", problem.strip().splitlines()[-1], "import", None, problem[-6000:])
        return
    adapter = importlib.import_module(f"tpscope.frameworks.inside.{family}")
    case = opened(request, answer, scratch)
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        case.shim("torch.compile is off: what a framework compiles runs eagerly")
    messages = io.StringIO()
    with listening(answer.log), contextlib.redirect_stdout(messages):
        try:
            adapter.answer(case)
        except Refused as refusal:
            answer.status, answer.error = refusal.status, refusal.error
        except BaseException as error:  # noqa: BLE001 - a framework's crash is an answer, never a crash of ours
            found, deliberate = failure(error, case.phase, request.roots)
            answer.error = found
            answer.status = status_of(error, found, deliberate)
    for line in messages.getvalue().splitlines():
        if line.strip():
            answer.log.append(LogLine("PRINT", "stdout", line.strip()[:600]))


def opened(request: Request, answer: FrameworkAnswer, scratch: Path) -> Case:
    """A case with its configs written to a scratch folder, which becomes the working folder."""
    case = Case(request, answer, _write(request, scratch / "model", request.config), None)
    if small := request.training.get("small_config"):
        case.small_folder = _write(request, scratch / "small", small)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_MODULES_CACHE"] = str(scratch / "modules")
    os.chdir(scratch)
    return case


_LACKS_CUDA = ("not compiled with CUDA", "No CUDA", "NVIDIA driver", "requires CUDA", "backward on CPU")


def status_of(error: BaseException, found: Failure, deliberate: bool) -> Status:
    """What an exception that came out of a framework makes of a case."""
    words = str(error)
    if ours(error):
        # A call that this version does not take is a gap of ours, not a crash of the framework's.
        found.message = f"tpscope does not know how to drive this version: {found.message}"
        return Status.UNSUPPORTED
    if found.where is not None and found.where.path.endswith("models/auto/configuration_auto.py"):
        return Status.UNSUPPORTED
    if any(sign in words for sign in _LACKS_CUDA):
        return Status.UNSUPPORTED
    if isinstance(error, ImportError):
        return Status.UNSUPPORTED
    return Status.REFUSED if deliberate else Status.CRASHED


def read(raw: dict[str, Any]) -> Request:
    """A request as it came through JSON."""
    raw["layout"] = Layout(**raw["layout"])
    if raw.get("lora"):
        raw["lora"] = Lora(**{**raw["lora"], "targets": tuple(raw["lora"]["targets"])})
    return Request(**raw)


def _write(request: Request, folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    if request.remote_code:
        for file in Path(request.remote_code).glob("*.py"):
            (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@contextlib.contextmanager
def listening(kept: list[LogLine]) -> Iterator[None]:
    """Keep every message of INFO and above that the framework logs, and every warning."""
    noise = ("torch._dynamo", "fsspec", "torch.distributed.distributed_c10d", "urllib3", "filelock")
    seen: set[tuple[str, str]] = set()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = " ".join(record.getMessage().split())[:600]
            general = re.sub(r"\.\d+\b", ".*", message)
            if record.name.startswith(noise) or (record.name, general) in seen:
                return
            seen.add((record.name, general))
            kept.append(LogLine(record.levelname, record.name, message))

    handler = Keep(logging.INFO)
    root = logging.getLogger()
    others = [logging.getLogger(name) for name in ("transformers", "nemo_automodel", "axolotl", "accelerate", "peft")]
    levels = [(logger, logger.level) for logger in [root, *others]]
    for logger in others:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler) if not logger.propagate else None
    root.setLevel(logging.INFO)
    root.addHandler(handler)

    def warned(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        text = " ".join(str(message).split())[:600]
        if (category.__name__, text) not in seen:
            seen.add((category.__name__, text))
            kept.append(LogLine("WARNING", category.__name__, text))

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = warned  # type: ignore[assignment]
        try:
            yield
        finally:
            root.removeHandler(handler)
            for logger, level in levels:
                logger.removeHandler(handler)
                logger.setLevel(level)


def packages(roots: list[str]) -> dict[str, str]:
    """Versions of the packages that matter to tensor parallelism, as they are installed here."""
    found: dict[str, str] = {}
    for dist in metadata.distributions():
        name = (dist.metadata["Name"] or "").lower()
        if name in ("torch", "transformers", "accelerate", "peft", "nemo-automodel", "nemo_automodel", "axolotl"):
            found.setdefault(name.replace("_", "-"), dist.version)
    return found
