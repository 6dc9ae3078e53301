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
from tpscope.models.size import check_size
from tpscope.plan import curated, foreign
from tpscope.plan.result import Derived, PlanAnswer, PlanRequest, Source

EXPERTS = 4
WIDEST = 1024
SECONDS = 300
SOURCES = (Source.CURATED, Source.SHIPPED, Source.DERIVED)
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


def derive(
    text: str,
    tp: int,
    say: Callable[[str, str], None],
    trusted: bool = False,
    custom: str | None = None,
    source: str | None = None,
    form: str = "tpscope",
) -> Derived:
    """The plan for INPUT at so many ranks: `custom` is a plan file, `source` asks one source alone, `form` is the
    format that it is to be written in.

    Raises UserError for a plan file that is none, or a source that is not known.
    """
    begun = time.monotonic()
    if _own(text):
        return _derive_own(text, tp, say, begun)
    spec, intent = read(text, trusted)
    remote = str(spec.remote_code.resolve()) if spec.remote_code is not None else ""
    given = [foreign.read(custom).given] if custom else []
    if found := curated.find(str(spec.config.get("model_type", ""))):
        given.append(found)
    # Custom code reads its own keys: it is taken in its own size, if that is small.
    config = spec.config if remote else shrink(spec.config, experts=EXPERTS).config
    if remote:
        check_size(spec, config)
    request = PlanRequest(
        (tp,), config, published=None if remote else spec.config, sources=_sources(custom, source), given=tuple(given),
        form=form, remote_code=remote,
    )  # fmt: skip
    result = Derived(spec.name, spec.source, tp, one(request, f"plan {spec.name}", say))
    result.command = f"tpscope plan {text} --tp {tp}" + (f" --plan {custom}" if custom else "")
    result.command += f" --source {source}" if source else ""
    result.environment = versions()
    result.notes = list(spec.notes) + list(intent.notes)
    result.seconds = round(time.monotonic() - begun, 1)
    return result


def _own(text: str) -> bool:
    head, colon, name = text.rpartition(":")
    return bool(colon) and head.endswith(".py") and name.isidentifier()


def _derive_own(text: str, tp: int, say: Callable[[str, str], None], begun: float) -> Derived:
    """The plan for a user's own module, which a function in a file makes with a sample input. Its code is run."""
    path, _, name = text.rpartition(":")
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{text}: there is no file {path}; write path/file.py:function that returns (module, sample)")
    request = PlanRequest((tp,), make=f"{file.resolve()}:{name}", sources=(Source.DERIVED,))
    result = Derived(
        text, path, tp, one(request, f"plan {text}", say), versions(), command=f"tpscope plan {text} --tp {tp}"
    )
    result.seconds = round(time.monotonic() - begun, 1)
    return result


def _sources(custom: str | None, source: str | None) -> tuple[Source, ...]:
    if custom:
        return (Source.CUSTOM,)
    if source is None:
        return SOURCES
    names = [item.value for item in Source if item is not Source.CUSTOM]
    if source not in names:
        raise UserError(f"--source {source}: choose one of {', '.join(names)}; a file of your own is --plan FILE")
    return (Source(source),)


def one(request: PlanRequest, what: str, say: Callable[[str, str], None]) -> PlanAnswer:
    """The answer to one request, from a process of its own."""
    say("run", what)
    with tempfile.TemporaryDirectory() as folder:
        answers = list(ask([request], Path(folder), SECONDS))
    say("done", what)
    return answers[0]


def versions() -> dict[str, str]:
    """What the deriving process runs with."""
    return {name: metadata.version(name) for name in ("torch", "transformers")}
