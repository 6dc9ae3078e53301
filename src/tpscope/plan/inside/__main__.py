"""python -m tpscope.plan.inside REQUESTS ANSWERS SECONDS: a JSON request a line, an answer a line, forks."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from pydantic import TypeAdapter

from tpscope.language.answer import to_json
from tpscope.plan.result import PlanAnswer, PlanRequest

_REQUEST = TypeAdapter(PlanRequest)


def main(requests: Path, answers: Path, seconds: int) -> None:
    """Answer every request, each for so many seconds at most; what a process dies of is an answer."""
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for line in requests.read_text(encoding="utf-8").splitlines():
        request = _REQUEST.validate_python(json.loads(line))
        with answers.open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_json(_forked(request, seconds))) + "\n")


def _forked(request: PlanRequest, seconds: int) -> PlanAnswer:
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "answer.json"
        child = os.fork()
        if child == 0:
            _child(request, kept, seconds)
        _, status = os.waitpid(child, 0)
        if kept.is_file():
            found: PlanAnswer = TypeAdapter(PlanAnswer).validate_python(json.loads(kept.read_text(encoding="utf-8")))
            return found
    died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    why = f"not done after {seconds} s" if died == signal.SIGALRM else f"the process ended with signal {died}"
    return PlanAnswer(request.model_type, error=f"derivation: {why}")


def _child(request: PlanRequest, kept: Path, seconds: int) -> None:
    from tpscope.plan.inside.answer import answer

    signal.alarm(seconds)
    try:
        partial = kept.with_suffix(".part")
        partial.write_text(json.dumps(to_json(answer(request))), encoding="utf-8")
        partial.rename(kept)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
