"""Parent side of a framework's own reading of a training YAML."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from pydantic import TypeAdapter

from tpscope.frameworks import warm
from tpscope.frameworks.base import cache_root
from tpscope.frameworks.registry import Target
from tpscope.frameworks.runner import Environment, inside_digest
from tpscope.language.answer import Failure, to_json
from tpscope.language.keys import KeysAnswer, KeysRequest

SECONDS = 120.0
_ANSWER = TypeAdapter(KeysAnswer)


def read(request: KeysRequest, target: Target, environment: Environment, fresh: bool = False) -> KeysAnswer:
    """What a framework says of a file. Kept for the next time; a crash or a hang of the framework is an answer."""
    kept = _kept(request, environment)
    if not fresh and kept.is_file():
        return _ANSWER.validate_json(kept.read_bytes())
    answer = _ask(request, target, environment)
    if answer.error is None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(to_json(answer)), encoding="utf-8")
        partial.replace(kept)
    return answer


def _kept(request: KeysRequest, environment: Environment) -> Path:
    asked = {**to_json(request), "roots": []}
    words = json.dumps([asked, environment.digest, inside_digest()], sort_keys=True)
    return cache_root() / "answers" / f"keys-{hashlib.sha256(words.encode()).hexdigest()[:32]}.json"


def _ask(request: KeysRequest, target: Target, environment: Environment) -> KeysAnswer:
    request.roots = [str(root) for root in environment.roots]
    with tempfile.TemporaryDirectory(prefix="tpscope-") as scratch:
        order = {name: str(Path(scratch) / name) for name in ("request", "answer", "log")}
        Path(order["request"]).write_text(json.dumps(to_json(request)), encoding="utf-8")
        code = warm.read(target, environment, order, SECONDS)
        if Path(order["answer"]).is_file():
            return _ANSWER.validate_json(Path(order["answer"]).read_bytes())
        said = Path(order["log"]).read_bytes()[-6000:].decode(errors="replace")
        error = Failure("ProcessDied", f"the process ended: {code}", "keys", None, said)
        return KeysAnswer(id=request.framework, error=error)
