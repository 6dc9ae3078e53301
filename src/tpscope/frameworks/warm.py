"""Readers that stay: one process a framework, which has imported it and waits some minutes for the next file.

Imports take seconds, a reading a fraction of one. A reader holds no file and no lock, and ends by itself.
`TPSCOPE_WARM_SECONDS` says how long it waits; with 0 none stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock

from tpscope.frameworks.base import cache_root
from tpscope.frameworks.registry import Target
from tpscope.frameworks.runner import INSIDE, Environment, inside_digest, variables

IDLE = 600.0
_SCRIPT = "reading/__main__.py"
# Of seconds of imports, on a machine that has much else to do.
_IMPORTS = 240.0


def read(target: Target, environment: Environment, order: dict[str, str], seconds: float) -> int | str:
    """Have one file read. Returns 0 where the answer may be there, else how the process ended."""
    line = ready(target, environment)
    if line is not None:
        with line, contextlib.suppress(OSError):
            return _asked(line, order, seconds)
    arguments = [target.family.name, _kept(environment), order["request"], order["answer"]]
    return once(environment, _SCRIPT, arguments, Path(order["log"]), _IMPORTS + seconds)


def ready(target: Target, environment: Environment) -> socket.socket | None:
    """A line to a reader, started if there is none; None where none may stay or none could start."""
    folder, idle = _folder(), _idle()
    if folder is None or idle <= 0:
        return None
    address = folder / f"{_name(environment)}.sock"
    if (line := _line(address)) is not None:
        return line
    with FileLock(f"{address}.lock"):
        if (line := _line(address)) is not None:
            return line
        arguments = [target.family.name, _kept(environment), str(address), str(idle)]
        once(environment, _SCRIPT, arguments, address.with_suffix(".log"), _IMPORTS)
        return _line(address)


def once(environment: Environment, script: str, arguments: list[str], log: Path, seconds: float) -> int | str:
    """Run one script of `inside/` to its end in a process group of its own. Returns its exit code, or "timeout"."""
    flags = ["-S"] if environment.path else []
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [str(environment.python), "-W", "ignore", *flags, str(INSIDE / script), *arguments],
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
            env=variables(environment, random.randrange(1, 2**32)), start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return "timeout"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _idle() -> float:
    try:
        return float(os.environ.get("TPSCOPE_WARM_SECONDS", IDLE))
    except ValueError:
        return 0.0


def _name(environment: Environment) -> str:
    words = [str(environment.python), environment.digest, inside_digest(("*.py", "reading/*.py"))]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _folder() -> Path | None:
    """A folder of this user alone, short enough for the address of a socket; None where somebody else made it."""
    folder = Path(tempfile.gettempdir()) / f"tpscope-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    return folder if found.st_uid == os.getuid() and found.st_mode & 0o777 == 0o700 else None


def _line(address: Path) -> socket.socket | None:
    """A connection, None where nobody listens. A reader that died leaves its address behind."""
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(str(address))
    except OSError:
        line.close()
        return None
    return line


def _asked(line: socket.socket, order: dict[str, str], seconds: float) -> int | str:
    line.settimeout(seconds)
    with line.makefile("rw") as words:
        child = int(words.readline())
        words.write(json.dumps(order) + "\n")
        words.flush()
        try:
            # The end of the fork closes the connection.
            words.read()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            return "timeout"
    return 0


def _kept(environment: Environment) -> str:
    return str(cache_root() / "reads" / _name(environment))
