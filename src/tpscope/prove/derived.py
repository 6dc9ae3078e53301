"""The proven plan of a config, derived in a process of its own and kept in the cache folder."""

from __future__ import annotations

import hashlib
import importlib.metadata as metadata
import json
import tempfile
from pathlib import Path
from typing import Any

from tpscope.errors import UserError
from tpscope.frameworks.base import cache_root
from tpscope.language.verdict import Verdict
from tpscope.models.shrink import shrink
from tpscope.plan import files
from tpscope.plan.result import PlanAnswer, PlanRequest
from tpscope.plan.run import EXPERTS, SECONDS, ask


def proven(config: dict[str, Any], ranks: int, name: str) -> str:
    """The plan as YAML. Raises UserError, with what stands in the way, where none was proven or it does not fit."""
    small = shrink(config, experts=EXPERTS).config
    versions = [metadata.version(package) for package in ("torch", "transformers")]
    key = hashlib.sha256(json.dumps([small, ranks, versions], sort_keys=True).encode()).hexdigest()[:32]
    kept = cache_root() / "plans" / f"{key}.yaml"
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        (answer,) = ask([PlanRequest((ranks,), small, published=config)], Path(folder), SECONDS)
    text = _written(answer, name, ranks)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(kept)
    return text


def _written(answer: PlanAnswer, name: str, ranks: int) -> str:
    case = answer.cases[0] if answer.cases else None
    if case is None:
        raise UserError(f"{name}: no plan could be derived ({answer.error}); give one, as in plan='plan.yaml'")
    if case.misfit:
        raise UserError(f"{name}: the derived plan does not fit: {case.misfit}")
    if case.proof.verdict is not Verdict.EQUAL or not case.plan.regions:
        why = case.proof.error or ", ".join(list(case.proof.wrong)[:3]) or "nothing of it can be cut"
        raise UserError(f"{name}: the plan derived for {ranks} ranks was not proven ({why}); see tpscope plan")
    return files.write(case.plan)
