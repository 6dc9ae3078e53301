"""A world: warm rank processes of one framework. A case is a fork of each; one that fails never costs the next one."""

from __future__ import annotations

import hashlib
import json
import queue
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from tpscope.frameworks.merge import End, merge, not_started
from tpscope.frameworks.registry import Target
from tpscope.frameworks.runner import Environment, Reply, Server
from tpscope.language.answer import to_json
from tpscope.language.proof import Cause, Diagnosis, ProofAnswer, ProofRequest
from tpscope.language.verdict import Verdict

MOST_RANKS = 8
GRACE_SECONDS = 3.0
STOP_SECONDS = 5.0
IMPORT_SECONDS = 300.0
_ANSWER = TypeAdapter(ProofAnswer)
_FAILED = (Verdict.CRASHED, Verdict.REFUSED, Verdict.UNSUPPORTED)


class WorldClosed(Exception):
    """The world was closed while a case ran in it."""


class World:
    """The rank processes of one framework environment. A case takes as many of them as its layout has ranks.

    Every rank is an interpreter of its own with a PYTHONHASHSEED of its own: `hash_seeds`, else random ones.
    """

    def __init__(self, target: Target, environment: Environment, hash_seeds: Sequence[int] | None = None):
        self.target = target
        self.environment = environment
        self._given = hash_seeds
        self._scratch = tempfile.TemporaryDirectory(prefix="tpscope-")
        self._folder = Path(self._scratch.name)
        self._servers: list[Server] = []
        self._replies: queue.Queue[Reply] = queue.Queue()
        self._count = 0
        self._closed = False
        self._guard = threading.Lock()

    @property
    def ranks(self) -> int:
        """Rank processes that are alive, or were when last looked at."""
        return len(self._servers)

    @property
    def hash_seeds(self) -> list[int]:
        """PYTHONHASHSEED of each rank process."""
        return [server.hash_seed for server in self._servers]

    def processes(self) -> list[int]:
        """Process ids of the ranks."""
        return [server.pid for server in self._servers]

    def ask(self, request: ProofRequest) -> ProofAnswer:
        """Answer one request. A crash, a hang or an exit of any rank is an answer."""
        ranks = request.layout.world
        servers = self._start(ranks)
        if dead := next((server for server in servers if not server.alive), None):
            dead.close()
            return not_started(request, dead.rank, dead.code, dead.said())
        self._count += 1
        folder = self._folder / f"case-{self._count}"
        folder.mkdir()
        checkpoints = self._folder / "checkpoints" / _model(request)
        checkpoints.mkdir(parents=True, exist_ok=True)
        asked = replace(
            request, roots=[str(root) for root in self.environment.roots], folder=str(folder),
            training={**request.training, "checkpoints": str(checkpoints)},
        )  # fmt: skip
        (folder / "request.json").write_text(json.dumps(to_json(asked)), encoding="utf-8")
        started = time.monotonic()
        ends = self._run(servers, folder, request.seconds)
        answer = merge(request, ends, self.environment.roots)
        if answer.verdict == Verdict.CRASHED and (early := folder / "answer-0.json.early").is_file():
            answer = _kept(_ANSWER.validate_json(early.read_bytes()), answer)
        answer.seconds = round(time.monotonic() - started, 3)
        shutil.rmtree(folder)
        return answer

    def _start(self, ranks: int) -> list[Server]:
        """Rank processes 0 to `ranks`, those that are missing or dead started anew, all of them with their imports."""
        with self._guard:
            if self._closed:
                raise WorldClosed
            for rank in range(ranks):
                if rank == len(self._servers):
                    self._servers.append(self._server(rank))
                elif not self._servers[rank].alive:
                    self._servers[rank].close()
                    self._servers[rank] = self._server(rank)
        for server in self._servers[:ranks]:
            if not server.ready.wait(IMPORT_SECONDS):
                server.close()
        if self._closed:
            raise WorldClosed
        return self._servers[:ranks]

    def _server(self, rank: int) -> Server:
        seed = self._given[rank % len(self._given)] if self._given else None
        return Server(self.target, self.environment, self._folder / f"log-{rank}", self._replies, rank, seed)

    def _run(self, servers: list[Server], folder: Path, seconds: float) -> list[End]:
        """Hand out one case and wait until every rank has ended. If one fails, the others are stopped soon after."""
        abort = folder / "abort"
        waiting: dict[int, tuple[Server, int]] = {}
        self._replies = self._drained()
        for server in servers:
            waiting[server.rank] = (server, server.logged)
            answer = str(folder / f"answer-{server.rank}.json")
            order = {"request": str(folder / "request.json"), "answer": answer, "seconds": seconds}
            server.order({**order, "rank": server.rank, "abort": str(abort)})
        ends: list[End] = []
        deadline = time.monotonic() + seconds + STOP_SECONDS
        while waiting:
            try:
                rank, reply = self._replies.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                if abort.exists():
                    # A server that does not even stop its child is of no more use.
                    for rank, (server, mark) in waiting.items():
                        ends.append(_end(server, None, folder / f"answer-{rank}.json", mark, True))
                    return ends
                abort.touch()
                deadline = time.monotonic() + STOP_SECONDS
                continue
            if self._closed:
                raise WorldClosed
            if rank not in waiting:
                continue
            server, mark = waiting.pop(rank)
            ends.append(_end(server, reply, folder / f"answer-{rank}.json", mark, abort.exists()))
            if ends[-1].failed and not abort.exists():
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        return ends

    def _drained(self) -> queue.Queue[Reply]:
        """The queue without what servers said that are gone."""
        while not self._replies.empty():
            self._replies.get_nowait()
        return self._replies

    def close(self) -> None:
        """End all processes. From another thread too: a case that runs then raises WorldClosed."""
        with self._guard:
            self._closed = True
            for server in self._servers:
                server.close()
        self._scratch.cleanup()


def _kept(answer: ProofAnswer, failed: ProofAnswer) -> ProofAnswer:
    """A verdict that stood before something failed: its diagnosis, where what fails is ours and not the framework's, or
    a later part of the scenario."""
    answer.rank_errors = failed.rank_errors
    if answer.diagnosis:
        answer.sentence = f"{answer.sentence}; what the scenario does after that failed: {failed.sentence}"
        return answer
    words = f"the search for the cause did not come to an end ({failed.sentence})"
    names = [row.name for row in answer.parameters if not row.equal]
    answer.diagnosis.append(Diagnosis(Cause.UNKNOWN, "", names, "", words, False))
    return answer


def _model(request: ProofRequest) -> str:
    """Names the checkpoint that a request is about: cases of one model share it."""
    words = json.dumps([request.config, request.remote_code, request.scenario.dropout], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _end(server: Server, reply: dict[str, object] | None, answer: Path, mark: int, aborted: bool) -> End:
    """How a rank ended. `reply` is its server's, or None if the server itself has ended."""
    stack = Path(f"{answer}.stack")
    found = _ANSWER.validate_json(answer.read_bytes()) if answer.is_file() else None
    if reply is None:
        # It has closed its output, so it is ending; its child may not be.
        server.close()
    how = reply["exit"] if reply is not None else "aborted" if aborted else server.code
    return End(
        rank=server.rank,
        how=how if isinstance(how, int | str) else "lost",
        answer=found,
        at=answer.stat().st_mtime_ns if found else time.time_ns(),
        stack=stack.read_text(errors="replace") if stack.is_file() else "",
        log=server.said(mark),
        failed=how != 0 or found is None or found.verdict in _FAILED,
    )


class Worlds:
    """Worlds by framework, kept warm: at most `MOST_RANKS` rank processes; the least recently used world goes."""

    def __init__(self) -> None:
        self._worlds: OrderedDict[tuple[str, str], World] = OrderedDict()
        self._guard = threading.Lock()
        self._busy: set[tuple[str, str]] = set()
        self._closed = False

    def ask(
        self, target: Target, environment: Environment, request: ProofRequest, seeds: Sequence[int] | None = None,
        kind: str = "",
    ) -> tuple[ProofAnswer, list[int]]:  # fmt: skip
        """The answer to a request, and the hash seeds of its ranks. One case at a time for each target and `kind`."""
        key = (target.id, kind)
        with self._guard:
            if self._closed:
                raise WorldClosed
            world = self._worlds.pop(key, None) or World(target, environment, seeds)
            self._worlds[key] = world
            self._busy.add(key)
            self._make_room(key, request.layout.world)
        try:
            answer = world.ask(request)
        finally:
            with self._guard:
                self._busy.discard(key)
        return answer, world.hash_seeds[: request.layout.world]

    def _make_room(self, wanted: tuple[str, str], ranks: int) -> None:
        def taken() -> int:
            others = sum(world.ranks for key, world in self._worlds.items() if key != wanted)
            return others + max(ranks, self._worlds[wanted].ranks)

        for key in [key for key in self._worlds if key != wanted and key not in self._busy]:
            if taken() > MOST_RANKS:
                self._worlds.pop(key).close()

    def __enter__(self) -> Worlds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of every world."""
        with self._guard:
            self._closed = True
            worlds = list(self._worlds.values())
            self._worlds.clear()
        for world in worlds:
            world.close()
