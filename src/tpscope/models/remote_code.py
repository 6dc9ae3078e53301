"""A model's own Python code, which its config.json names in `auto_map`."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from tpscope.errors import UserError
from tpscope.models import hub_cache


def remote_code(config: dict[str, Any], file: Path, trusted: bool) -> tuple[Path | None, str | None]:
    """The directory with the code that `config` names, if it is needed or trusted, and a note on it.

    Raises UserError where only custom code can build the model and the user does not trust it, or it is not there.
    """
    modules = sorted(_modules(config.get("auto_map")))
    if not modules:
        return None, None
    model_type = config["model_type"]
    native = model_type in _native()
    if not trusted:
        if native:
            return None, f"custom code named in auto_map is left alone: transformers has {model_type} itself"
        raise UserError(
            f"{file} needs custom code ({', '.join(modules)}), since transformers does not know "
            f"model_type {model_type}; read that code, and pass --trust-remote-code if it may run here"
        )
    folder = file.parent
    missing = None
    for module in modules:
        repository, _, own = module.rpartition("--")
        place = hub_cache.snapshot(repository) if repository else file.parent
        if place is None or not (place / f"{own}.py").exists():
            missing = f"{own}.py of {repository}" if repository else f"{own}.py beside it"
        elif repository:
            folder = place
    if missing is None:
        return folder, None
    if native:
        return None, f"custom code named in auto_map is not there ({missing}): transformers has {model_type} itself"
    raise UserError(f"{file} names custom code that is not there ({missing}); put the Python files beside config.json")


def _modules(named: Any) -> set[str]:
    """`configuration_x.XConfig` or `org/repo--configuration_x.XConfig`, without the class."""
    if not isinstance(named, dict):
        return set()
    values = [item for value in named.values() for item in (value if isinstance(value, list) else [value])]
    return {value.rpartition(".")[0] for value in values if isinstance(value, str) and "." in value}


@lru_cache(maxsize=1)
def _native() -> frozenset[str]:
    """Model types of the installed transformers, read from its registry as text: importing it takes seconds."""
    spec = importlib.util.find_spec("transformers")
    found: set[str] = set()
    for root in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(root).glob("models/auto/*.py")):
            if file.name in ("auto_mappings.py", "configuration_auto.py"):
                words = file.read_text(encoding="utf-8").split('("')[1:]
                found |= {word.partition('"')[0] for word in words}
    return frozenset(found)
