"""One experiment: from an order file to an answer file.

An experiment is a module beside this one with `answer(family, case, options)`, which returns plain JSON values or a
dataclass. It runs in a fork of the warm server, as a comparison does: what it patches is gone when it ends.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import tempfile
import time
from pathlib import Path

from tpscope.frameworks.inside.case import listening, opened, packages, read
from tpscope.frameworks.inside.trace import failure
from tpscope.language.answer import Failure, FrameworkAnswer, to_json
from tpscope.language.measured.answer import ExperimentAnswer


def run(family: str, module: str, request_file: str, answer_file: str, problem: str | None) -> None:
    """Answer one order. What the framework raises is the answer."""
    order = json.loads(Path(request_file).read_text(encoding="utf-8"))
    request = read(order["request"])
    answer = ExperimentAnswer(request.framework, packages=packages(request.roots), cpus=os.cpu_count() or 0)
    started, before = time.perf_counter(), os.getloadavg()[0]
    if problem:
        answer.error = Failure("ImportError", problem.strip().splitlines()[-1], "import", None, problem[-6000:])
    else:
        with tempfile.TemporaryDirectory(prefix="tpscope-") as scratch:
            case = opened(request, FrameworkAnswer(id=request.framework), Path(scratch))
            with listening(answer.log), contextlib.redirect_stdout(io.StringIO()):
                try:
                    experiment = importlib.import_module(f"tpscope.frameworks.inside.experiments.{module}")
                    answer.value = to_json(experiment.answer(family, case, order["options"]))
                except BaseException as error:  # noqa: BLE001 - a framework's crash is an answer, never a crash of ours
                    answer.error = failure(error, case.phase, request.roots)[0]
            answer.shims = case.answer.shims
    answer.load = (round(before, 2), round(os.getloadavg()[0], 2))
    answer.seconds = round(time.perf_counter() - started, 3)
    partial = Path(f"{answer_file}.partial")
    partial.write_text(json.dumps(to_json(answer)), encoding="utf-8")
    partial.rename(answer_file)
