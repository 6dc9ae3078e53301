"""A user's own plan as NeMo takes it: by an import path, so that a file gets a module that can be imported."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from tpscope.frameworks.base import cache_root
from tpscope.frameworks.registry import Target
from tpscope.frameworks.runner import Environment
from tpscope.language.proof import ProofRequest

_NEMO = "nemo"
_KIND = "own plan "
_MODULE = """\
import importlib.util
import sys

sys.path.insert(0, {folder!r})
_spec = importlib.util.spec_from_file_location({name!r}, {file!r})
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
{attribute} = _module.{attribute}
"""


def importable(target: Target, where: Environment, request: ProofRequest) -> tuple[Environment, ProofRequest, str]:
    """The environment and request with `path.py:name` as an import path, and the kind of world that they need.

    Other frameworks read the file themselves, and a user's own environment is left as it is.
    """
    if request.custom_plan is None or target.family.name != _NEMO or not where.path:
        return where, request, ""
    text, _, attribute = request.custom_plan.rpartition(":")
    file = Path(text)
    name = f"tpscope_plan_{hashlib.sha256(request.custom_plan.encode()).hexdigest()[:16]}"
    modules = cache_root() / "plans"
    modules.mkdir(parents=True, exist_ok=True)
    source = _MODULE.format(folder=str(file.parent), name=f"{name}_file", file=str(file), attribute=attribute)
    (modules / f"{name}.py").write_text(source, encoding="utf-8")
    return replace(where, path=(*where.path, modules)), replace(request, custom_plan=f"{name}.{attribute}"), _KIND
