"""The process that runs in a framework's environment.

    python inside/__main__.py FAMILY

Says `{"ready": true}` when the framework is imported. Then reads one JSON line a case from standard input
(`{"request": FILE, "answer": FILE, "seconds": N}`), answers each in a forked child, so that a case starts from freshly
imported modules and a crash or a hang ends only itself, and writes one JSON line a case to standard output when its
answer file is there. With `"verb": "keys"` the child reads a training YAML. With `"verb": "experiment"` it runs the
experiment that `"module"` names, of `experiments/`. With `"rank": N` the child is one rank of
a proof; when the file that `"abort"` names appears, it leaves its stack beside its answer and is killed, as it is when
its time is over. When standard input closes, everything that was started here ends.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
import types
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[2]
_POLL_MS = 10
_SECONDS_FOR_STACK = 0.3


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
    replies.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        order = json.loads(line)
        run = _verb(family, order)
        # What is imported by now stays: a child that collects garbage (loaders do) need not go through all of it.
        gc.freeze()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(replies.fileno())
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                run(family, order, problem)
                code = 0
            except BaseException:  # noqa: BLE001 - the process ends here: its log must say why
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        replies.write(json.dumps({"answer": order["answer"], **_wait(child, order)}) + "\n")


def _verb(family: str, order: dict[str, Any]) -> Any:
    """What a child does with an order. Its module is imported here, once, so that children find it imported."""
    if "rank" in order:
        importlib.import_module("tpscope.frameworks.inside.proof.run").preload(family)
        return _prove
    if order.get("verb") == "keys":
        return _keys
    if order.get("verb") == "experiment":
        return _experiment
    return _compare


def _compare(family: str, order: dict[str, Any], problem: str | None) -> None:
    case = importlib.import_module("tpscope.frameworks.inside.case")
    case.run(family, order["request"], order["answer"], problem)


def _keys(family: str, order: dict[str, Any], problem: str | None) -> None:
    keys = importlib.import_module("tpscope.frameworks.inside.keys")
    keys.run(family, order["request"], order["answer"], problem)


def _experiment(family: str, order: dict[str, Any], problem: str | None) -> None:
    experiments = importlib.import_module("tpscope.frameworks.inside.experiments.run")
    experiments.run(family, order["module"], order["request"], order["answer"], problem)


def _prove(family: str, order: dict[str, Any], problem: str | None) -> None:
    # The file stays open for as long as the process lives: the handler writes to its descriptor.
    faulthandler.register(signal.SIGUSR1, file=open(order["answer"] + ".stack", "w"))  # noqa: SIM115
    proof = importlib.import_module("tpscope.frameworks.inside.proof.run")
    proof.run(family, order["request"], order["answer"], order["rank"], problem)


def _wait(child: int, order: dict[str, Any]) -> dict[str, object]:
    deadline = time.monotonic() + order["seconds"]
    abort = Path(order["abort"]) if "abort" in order else None
    parent = select.poll()
    parent.register(0, 0)  # a closed pipe is reported whether asked for or not
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return {"exit": os.waitstatus_to_exitcode(status)}
        if abort is not None and abort.exists():
            _stop(child, order)
            return {"exit": "aborted"}
        if time.monotonic() > deadline:
            _stop(child, order)
            return {"exit": "timeout", "seconds": order["seconds"]}
        if parent.poll(_POLL_MS):
            # Nobody is left to answer. The parent started us in a group of our own.
            os.killpg(os.getpgrp(), signal.SIGKILL)


def _stop(child: int, order: dict[str, Any]) -> None:
    """Kill a child; a rank leaves its stack first."""
    if "rank" in order:
        os.kill(child, signal.SIGUSR1)
        time.sleep(_SECONDS_FOR_STACK)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    _mount()
    _serve(sys.argv[1])
