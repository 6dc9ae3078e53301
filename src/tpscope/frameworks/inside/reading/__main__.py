"""The process that reads training YAMLs in a framework's environment.

    python inside/reading/__main__.py FAMILY KEPT SOCKET IDLE

Imports what reading a file takes, then leaves a server behind and ends: its end says that the server is there. For
every connection to SOCKET the server forks; the fork says its process id, takes one JSON line (`{"request": FILE,
"answer": FILE, "log": FILE}`), answers, and closes the connection by ending. After IDLE seconds without a connection
the server removes SOCKET and ends. KEPT is a folder for what is worked out of the framework's source once.

    python inside/reading/__main__.py FAMILY KEPT REQUEST ANSWER

With an ANSWER that is no number, one file is read and nothing stays.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
import types
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[3]
# What a framework imports may log and warn: that says nothing of the file, so it comes before anybody listens.
_FIRST = {
    "axolotl": ("axolotl.utils.config", "axolotl.utils.distributed"),
    "nemo": ("nemo_automodel.components.config.loader",),
}
# What nearly every file needs besides: a server has it ready.
_USUAL = {
    "axolotl": ("axolotl.integrations.base",),
    "nemo": (
        "nemo_automodel._transformers.auto_model",
        "nemo_automodel.recipes._typed_config",
        "nemo_automodel.recipes._dist_utils",
        "nemo_automodel.components._peft.lora",
        "nemo_automodel.components.datasets.llm",
        "nemo_automodel.components.datasets.loader",
        "nemo_automodel.components.checkpoint.config",
        "nemo_automodel.components.loss.masked_ce",
        "torchdata.stateful_dataloader",
    ),
}


def _mount() -> None:
    """Make `tpscope.language` and `tpscope.frameworks.inside` importable without our environment on the path."""
    for name, folder in (("tpscope", _PACKAGE), ("tpscope.frameworks", _PACKAGE / "frameworks")):
        module = types.ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]


def _imported(family: str) -> str | None:
    """The traceback of an import that fails, None if none does."""
    try:
        for name in _FIRST[family]:
            importlib.import_module(name)
    except BaseException:  # noqa: BLE001 - an import that dies is an answer too
        return traceback.format_exc()
    return None


def _usual(family: str) -> None:
    """Import the rest; what this version has not, or cannot import here, is met again by the file that asks for it."""
    for name in _USUAL[family]:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001 - see above; the log of the server says it here too
            traceback.print_exc()


def _serve(family: str, problem: str | None, address: str, idle: float) -> None:
    keys = importlib.import_module("tpscope.frameworks.inside.keys")
    importlib.import_module(f"tpscope.frameworks.inside.keys_{family}")
    _usual(family)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.bind(f"{address}.{os.getpid()}")
    waiting.listen()
    waiting.settimeout(idle)
    os.rename(f"{address}.{os.getpid()}", address)
    gc.freeze()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Whoever started us may want to remove the folder it was in.
    os.chdir("/")
    while True:
        try:
            asked, _ = waiting.accept()
        except TimeoutError:
            break
        if os.fork() == 0:
            waiting.close()
            _answer(family, problem, asked, keys)
        asked.close()
    Path(address).unlink(missing_ok=True)


def _answer(family: str, problem: str | None, asked: socket.socket, keys: types.ModuleType) -> None:
    """One order, in a fork and a process group of its own."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        asked.settimeout(None)
        asked.sendall(f"{os.getpid()}\n".encode())
        with asked.makefile() as lines:
            text = lines.readline()
        if not text:
            # Somebody only looked whether we are there.
            return
        order = json.loads(text)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        keys.run(family, order["request"], order["answer"], problem)
    except BaseException:  # noqa: BLE001 - the process ends here: its log must say why
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    # What imports make stays until the end: looking for garbage in it takes a fifth of the time.
    gc.disable()
    _mount()
    family, kept, first, second = sys.argv[1:]
    importlib.import_module("tpscope.frameworks.inside.reading.kept").keep(kept)
    problem = _imported(family)
    if second.replace(".", "").isdigit():
        _serve(family, problem, first, float(second))
    else:
        importlib.import_module("tpscope.frameworks.inside.keys").run(family, first, second, problem)
    sys.stderr.flush()
    # Threads and exit handlers of what was imported have nothing left to say.
    os._exit(0)
