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
from tpscope.language.measured.answer import ExperimentAnswer
from tpscope.language.proof import ProofAnswer, ProofRequest
from tpscope.language.verdict import Status

SECONDS = 300.0
INSIDE = Path(tpscope.__file__).parent / "frameworks" / "inside"
_ANSWER = TypeAdapter(FrameworkAnswer)
_PROOF = TypeAdapter(ProofAnswer)
_EXPERIMENT = TypeAdapter(ExperimentAnswer)
# The code inside that comparisons and proofs depend on. Experiments are asked anew each time: neither their code nor
# their nouns (language/measured) are in it.
_COMPARES, _PROVES = ("*.py",), ("*.py", "proof/**/*.py")
Reply = tuple[int, dict[str, Any] | None]


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


def variables(environment: Environment, hash_seed: int) -> dict[str, str]:
    """What a framework's process finds in its environment: nothing of ours, no network, no accelerator."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TPSCOPE"))}
    keep["PYTHONHASHSEED"] = str(hash_seed)
    if environment.path:
        keep["PYTHONPATH"] = os.pathsep.join(str(entry) for entry in environment.path)
    keep.update(
        HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="info", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false",
        AXOLOTL_DO_NOT_TRACK="1", TRL_EXPERIMENTAL_SILENCE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1",
        TORCHDYNAMO_DISABLE="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1", PYTHONUNBUFFERED="1",
    )  # fmt: skip
    return keep


class Server:
    """One warm process of one framework, in a group of its own. Cases run in forks of it.

    `replies` receives `(rank, reply)` for every order, and `(rank, None)` when the process has ended.
    """

    def __init__(
        self, target: Target, environment: Environment, log: Path, replies: queue.Queue[Reply], rank: int = 0,
        hash_seed: int | None = None,
    ):  # fmt: skip
        self.hash_seed = random.randrange(1, 2**32) if hash_seed is None else hash_seed
        self.rank = rank
        self.log = log
        self.ready = threading.Event()
        self._closed = False
        self._ended = False
        flags = ["-S"] if environment.path else []
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(environment.python), "-W", "ignore", *flags, str(INSIDE / "__main__.py"), target.family.name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=variables(environment, self.hash_seed), start_new_session=True,
            )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, args=(replies,), daemon=True)
        self._listener.start()

    def _listen(self, replies: queue.Queue[Reply]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                reply = json.loads(line)
                if reply.pop("ready", False):
                    self.ready.set()
                else:
                    replies.put((self.rank, reply))
        self._ended = True
        replies.put((self.rank, None))
        self.ready.set()

    def order(self, order: dict[str, Any]) -> None:
        """Hand over one case. An end of the process shows as a reply."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once the process has ended, or has closed its output and is about to."""
        return not self._ended and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """The exit code of the process, None while it runs."""
        return self._process.poll()

    @property
    def logged(self) -> int:
        """Size of the log so far, to be handed to `said` later."""
        return self.log.stat().st_size

    def said(self, since: int = 0) -> str:
        """The end of what the process wrote to standard error and output since then."""
        return self.log.read_bytes()[since:][-6000:].decode(errors="replace")

    def close(self) -> None:
        """End the process and everything it started. At once: it holds nothing that an orderly end would save."""
        if self._closed:
            return
        self._closed = True
        if self._ended:
            # Its exit code says more than the signal that ends what it left behind.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(timeout=5)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


class Worker:
    """One warm process of one framework that answers comparisons."""

    def __init__(self, target: Target, environment: Environment):
        self.target = target
        self.environment = environment
        self._scratch = tempfile.TemporaryDirectory(prefix="tpscope-")
        self._replies: queue.Queue[Reply] = queue.Queue()
        self._server = Server(target, environment, Path(self._scratch.name) / "log", self._replies)
        self._count = 0

    def ask(self, request: Request, seconds: float = SECONDS) -> FrameworkAnswer:
        """Answer one request. A crash, a hang or an exit of the framework is an answer."""
        request.roots = [str(root) for root in self.environment.roots]
        answer, error = self._order({}, request, seconds)
        if answer is not None:
            return _ANSWER.validate_json(answer)
        return FrameworkAnswer(id=request.framework, status=Status.CRASHED, error=error)

    def experiment(
        self, module: str, request: Request, options: dict[str, Any], seconds: float = SECONDS
    ) -> ExperimentAnswer:
        """Run `inside/experiments/MODULE.py` on a request. A crash, a hang or an exit is an answer with an error."""
        request.roots = [str(root) for root in self.environment.roots]
        document = {"request": to_json(request), "options": options}
        answer, error = self._order({"verb": "experiment", "module": module}, document, seconds)
        if answer is not None:
            return _EXPERIMENT.validate_json(answer)
        return ExperimentAnswer(framework=request.framework, error=error)

    def _order(self, verb: dict[str, Any], document: Any, seconds: float) -> tuple[bytes | None, Failure | None]:
        """Hand over one order as a file; the bytes of its answer file, or why there is none."""
        self._count += 1
        folder = Path(self._scratch.name)
        question, answer = folder / f"request-{self._count}.json", folder / f"answer-{self._count}.json"
        question.write_text(json.dumps(to_json(document)), encoding="utf-8")
        mark = self._server.logged
        self._server.order({**verb, "request": str(question), "answer": str(answer), "seconds": seconds})
        try:
            _, reply = self._replies.get(timeout=seconds + 120)
        except queue.Empty:
            reply = None
        if reply is not None and answer.is_file():
            return answer.read_bytes(), None
        code = reply["exit"] if reply else self._server.code
        said = f"no answer within {seconds:.0f} s" if code == "timeout" else f"the process ended with exit code {code}"
        return None, Failure("ProcessDied", said, "run", None, self._server.said(mark))

    @property
    def alive(self) -> bool:
        """False once the process has ended."""
        return self._server.alive

    def close(self) -> None:
        """End the process and everything it started."""
        self._server.close()
        self._scratch.cleanup()


@cache
def inside_digest(patterns: tuple[str, ...] = _COMPARES) -> str:
    """Names the code that runs inside: an answer of other code is not reused."""
    inside = [file for pattern in patterns for file in INSIDE.glob(pattern)]
    files = sorted([*inside, *(Path(tpscope.__file__).parent / "language").glob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def proof_digest() -> str:
    """Names the code that proofs depend on."""
    return inside_digest(_PROVES)


def cached(request: Request | ProofRequest, environment: Environment, more: str = "") -> Path:
    """Where the answer to a request in an environment is kept. `more` names what else the answer depends on."""
    asked = {**to_json(request), "roots": [], "folder": "", "seconds": 0}
    inside = proof_digest() if isinstance(request, ProofRequest) else inside_digest()
    words = json.dumps([asked, environment.digest, inside, _files(request), more], sort_keys=True)
    return cache_root() / "answers" / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.json"


def _files(request: Request | ProofRequest) -> list[str]:
    """Contents that a request names by path."""
    files: list[Path] = []
    if request.remote_code:
        files += sorted(Path(request.remote_code).glob("*.py"))
    if request.custom_plan:
        files.append(Path(request.custom_plan.rpartition(":")[0]))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]


def recall(path: Path) -> FrameworkAnswer | None:
    """A kept answer, or None if there is none (or a killed run left half of one)."""
    return _recall(path, _ANSWER)


def recall_proof(path: Path) -> ProofAnswer | None:
    """A kept proof, or None if there is none."""
    return _recall(path, _PROOF)


def recall_experiment(path: Path) -> ExperimentAnswer | None:
    """A kept answer of an experiment, or None if there is none."""
    return _recall(path, _EXPERIMENT)


def _recall(path: Path, kind: TypeAdapter[Any]) -> Any:
    try:
        return kind.validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def keep(path: Path, answer: FrameworkAnswer | ProofAnswer | ExperimentAnswer) -> None:
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
