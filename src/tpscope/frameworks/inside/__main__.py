"""The process that runs in a framework's environment.

    python inside/__main__.py FAMILY

Reads one JSON line a case from standard input (`{"request": FILE, "answer": FILE, "seconds": N}`), answers each in a
forked child, so that a case starts from freshly imported modules and a crash or a hang ends only itself, and writes
one JSON line a case to standard output when its answer file is there.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]


def _mount() -> None:
    """Make `tpscope.language` and `tpscope.frameworks.inside` importable without our environment on the path."""
    for name, folder in (("tpscope", _PACKAGE), ("tpscope.frameworks", _PACKAGE / "frameworks")):
        module = types.ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]


def _serve(family: str) -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    case = importlib.import_module("tpscope.frameworks.inside.case")
    started = time.perf_counter()
    problem = case.preload(family)
    case.IMPORT_SECONDS = time.perf_counter() - started
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                case.run(family, order["request"], order["answer"], problem)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        replies.write(json.dumps({"answer": order["answer"], **_wait(child, order["seconds"])}) + "\n")


def _wait(child: int, seconds: float) -> dict[str, object]:
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return {"exit": os.waitstatus_to_exitcode(status)}
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"exit": "timeout", "seconds": seconds}
        time.sleep(0.02)


if __name__ == "__main__":
    _mount()
    _serve(sys.argv[1])
