"""Parent side: start a framework's process, hand it cases, read typed answers. Never imports torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import tpscope
from tpscope.frameworks.base import base_path, cache_root
from tpscope.frameworks.overlay import Overlay
from tpscope.frameworks.registry import Target
from tpscope.language.answer import Failure, FrameworkAnswer, Request, to_json
from tpscope.language.verdict import Status

SECONDS = 300.0
_INSIDE = Path(tpscope.__file__).parent / "frameworks" / "inside"
_ANSWER = TypeAdapter(FrameworkAnswer)


@dataclass(frozen=True)
class Environment:
    """What a target runs in: an interpreter, what stands on its path, and what names its content."""

    python: Path
    path: tuple[Path, ...]
    roots: tuple[Path, ...]
    digest: str
    declared: dict[str, str]


def overlay_environment(overlay: Overlay) -> Environment:
    """Our interpreter without our site-packages: the overlay first, then torch's closure."""
    path = (*overlay.sources, base_path())
    return Environment(Path(sys.executable), path, overlay.sources, overlay.digest, overlay.declared)


class Worker:
    """One warm process of one framework. Cases run in forks of it."""

    def __init__(self, target: Target, environment: Environment):
        self.target = target
        self.environment = environment
        self._scratch = tempfile.TemporaryDirectory(prefix="tpscope-")
        self._replies: queue.Queue[str | None] = queue.Queue()
        self._log = (Path(self._scratch.name) / "log").open("w+", encoding="utf-8", errors="replace")
        flags = ["-S"] if environment.path else []
        self._process = subprocess.Popen(
            [str(environment.python), "-W", "ignore", *flags, str(_INSIDE / "__main__.py"), target.family.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=self._variables(),
            start_new_session=True,
        )  # fmt: skip
        self._count = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _variables(self) -> dict[str, str]:
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TPSCOPE"))}
        keep["PYTHONHASHSEED"] = str(random.randrange(1, 2**32))
        if self.environment.path:
            keep["PYTHONPATH"] = os.pathsep.join(str(entry) for entry in self.environment.path)
        keep.update(
            HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="info", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false",
            AXOLOTL_DO_NOT_TRACK="1", TRL_EXPERIMENTAL_SILENCE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1",
            TORCHDYNAMO_DISABLE="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1", PYTHONUNBUFFERED="1",
        )  # fmt: skip
        return keep

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put(None)

    def ask(self, request: Request, seconds: float = SECONDS) -> FrameworkAnswer:
        """Answer one request. A crash, a hang or an exit of the framework is an answer."""
        self._count += 1
        folder = Path(self._scratch.name)
        request.roots = [str(root) for root in self.environment.roots]
        question, answer = folder / f"request-{self._count}.json", folder / f"answer-{self._count}.json"
        question.write_text(json.dumps(to_json(request)), encoding="utf-8")
        order = {"request": str(question), "answer": str(answer), "seconds": seconds}
        mark = self._log.tell() if self._process.poll() is None else 0
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            reply = self._replies.get(timeout=seconds + 120)
        except (BrokenPipeError, queue.Empty):
            reply = None
        if reply is not None and answer.is_file():
            return _ANSWER.validate_json(answer.read_bytes())
        return self._crashed(request, json.loads(reply)["exit"] if reply else self._process.poll(), seconds, mark)

    def _crashed(self, request: Request, code: Any, seconds: float, mark: int) -> FrameworkAnswer:
        self._log.flush()
        text = (Path(self._scratch.name) / "log").read_text(encoding="utf-8", errors="replace")[mark:]
        said = f"no answer within {seconds:.0f} s" if code == "timeout" else f"the process ended with exit code {code}"
        error = Failure("ProcessDied", said, "run", None, text[-6000:])
        return FrameworkAnswer(id=request.framework, status=Status.CRASHED, error=error)

    @property
    def alive(self) -> bool:
        """False once the process has ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process and everything it started. At once: it holds nothing that an orderly end would save."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._log.close()
        self._scratch.cleanup()


@cache
def inside_digest() -> str:
    """Names the code that runs inside: an answer of other code is not reused."""
    files = sorted([*_INSIDE.glob("*.py"), *(Path(tpscope.__file__).parent / "language").glob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def cached(request: Request, environment: Environment) -> Path:
    """Where the answer to a request in an environment is kept."""
    asked = {**to_json(request), "roots": []}
    words = json.dumps([asked, environment.digest, inside_digest(), _files(request)], sort_keys=True)
    return cache_root() / "answers" / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.json"


def _files(request: Request) -> list[str]:
    """Contents that a request names by path."""
    files: list[Path] = []
    if request.remote_code:
        files += sorted(Path(request.remote_code).glob("*.py"))
    if request.custom_plan:
        files.append(Path(request.custom_plan.rpartition(":")[0]))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]


def recall(path: Path) -> FrameworkAnswer | None:
    """A kept answer, or None if there is none (or a killed run left half of one)."""
    try:
        return _ANSWER.validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def keep(path: Path, answer: FrameworkAnswer) -> None:
    """Keep an answer for the next time. A process that died or could not import is tried again."""
    if answer.error is not None and answer.error.kind in ("ProcessDied", "ImportError"):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    partial.write_text(json.dumps(to_json(answer)), encoding="utf-8")
    partial.replace(path)


def close_all(workers: Iterable[Worker]) -> None:
    """Close every worker."""
    for worker in workers:
        worker.close()
