"""The proven plan of a config, by the first source that has one, in a process of its own; kept in the cache folder."""

from __future__ import annotations

import hashlib
import importlib.metadata as metadata
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tpscope
from tpscope.errors import UserError
from tpscope.frameworks.base import cache_root
from tpscope.language.verdict import Verdict
from tpscope.models.shrink import shrink
from tpscope.plan import curated, files
from tpscope.plan.result import PlanAnswer, PlanRequest
from tpscope.plan.run import EXPERTS, SECONDS, SOURCES, ask


def proven(config: dict[str, Any], ranks: int, name: str) -> str:
    """The plan as YAML, curated, shipped or derived.

    Raises UserError, with what stands in the way, where none was proven or it does not fit.
    """
    small = shrink(config, experts=EXPERTS).config
    versions = [metadata.version(package) for package in ("torch", "transformers")]
    words = json.dumps([small, ranks, versions, _code()], sort_keys=True)
    key = hashlib.sha256(words.encode()).hexdigest()[:32]
    kept = cache_root() / "plans" / f"{key}.yaml"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        given = [found] if (found := curated.find(str(config.get("model_type", "")))) else []
        request = PlanRequest((ranks,), small, published=config, sources=SOURCES, given=tuple(given))
        (answer,) = ask([request], Path(folder), SECONDS)
    text = _written(answer, name, ranks)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(kept)
    return text


@cache
def _code() -> str:
    """Names the code that plans depend on: a plan of other code is not taken."""
    root = Path(tpscope.__file__).parent
    files = [file for part in ("plan", "engine", "language/sharding") for file in (root / part).rglob("*")]
    sources = sorted(file for file in files if file.suffix in (".py", ".yaml"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()


def _written(answer: PlanAnswer, name: str, ranks: int) -> str:
    case = answer.cases[0] if answer.cases else None
    if case is None:
        raise UserError(f"{name}: no plan was found ({answer.error}); give one, as in plan='plan.yaml'")
    if case.misfit:
        raise UserError(f"{name}: the plan does not fit: {case.misfit}")
    if case.proof.verdict is not Verdict.EQUAL or not case.plan.regions:
        why = case.proof.error or ", ".join(list(case.proof.wrong)[:3]) or "nothing of it can be cut"
        raise UserError(f"{name}: no plan for {ranks} ranks was proven ({why}); see tpscope plan")
    return files.write(case.plan)
