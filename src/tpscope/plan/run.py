"""Parent side of `tpscope plan`: INPUT to a request, the deriving process, its answer. Imports no torch."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from tpscope.errors import UserError
from tpscope.language.answer import to_json
from tpscope.models.read import read
from tpscope.models.shrink import shrink
from tpscope.plan.result import Derived, PlanAnswer, PlanRequest

EXPERTS = 4
SECONDS = 300
_ANSWER = TypeAdapter(PlanAnswer)


def ask(requests: Sequence[PlanRequest], folder: Path, seconds: int) -> Iterator[PlanAnswer]:
    """Answers in the order of the requests, as they come. A process that dies ends them."""
    asked, given, log = folder / "requests.jsonl", folder / "answers.jsonl", folder / "log"
    asked.write_text("".join(json.dumps(to_json(item)) + "\n" for item in requests), encoding="utf-8")
    given.touch()
    command = [sys.executable, "-W", "ignore", "-m", "tpscope.plan.inside", str(asked), str(given), str(seconds)]
    with log.open("wb") as errors, subprocess.Popen(command, stdout=errors, stderr=errors) as process:
        try:
            with given.open(encoding="utf-8") as file:
                rest, ended = "", False
                while True:
                    ended = process.poll() is not None
                    rest += file.read()
                    *lines, rest = rest.split("\n")
                    yield from (_ANSWER.validate_python(json.loads(line)) for line in lines)
                    if ended:
                        break
                    time.sleep(0.1)
        finally:
            process.kill()
    if process.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise UserError(f"the process that derives plans ended: {last[0] if last else process.returncode}")


def derive(text: str, tp: int, say: Callable[[str, str], None], trusted: bool = False) -> Derived:
    """Derive and prove a plan for INPUT at so many ranks."""
    begun = time.monotonic()
    spec, intent = read(text, trusted)
    if spec.remote_code is not None:
        raise UserError(
            f"{spec.name} brings its own model code, which tpscope plan does not run yet; see docs/roadmap.md"
        )
    small = shrink(spec.config, experts=EXPERTS)
    request = PlanRequest((tp,), small.config, published=spec.config)
    say("run", f"plan {spec.name}")
    with tempfile.TemporaryDirectory() as folder:
        answers = list(ask([request], Path(folder), SECONDS))
    say("done", f"plan {spec.name}")
    found = Derived(spec.name, spec.source, tp, answers[0], command=f"tpscope plan {text} --tp {tp}")
    found.environment = {name: metadata.version(name) for name in ("torch", "transformers")}
    found.notes = list(spec.notes) + list(intent.notes)
    found.seconds = round(time.monotonic() - begun, 1)
    return found
