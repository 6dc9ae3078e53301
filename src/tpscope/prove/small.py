"""The proof-sized model of a case: shrunk, with what its scenario sets in the config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tpscope.language.proof import Scenario
from tpscope.models.shrink import shrink
from tpscope.models.size import check_size
from tpscope.models.spec import ModelSpec
from tpscope.prove.scenarios import applied


@dataclass(frozen=True)
class Small:
    """A config that a CPU proves in a second, and what was changed of the published one: key -> [published, small]."""

    config: dict[str, Any]
    changed: dict[str, list[Any]]


def small(spec: ModelSpec, scenario: Scenario) -> Small:
    """The model of a case. Raises UserError with the property that stands in the way of a small one."""
    # Custom code reads its own keys: shrinking them blindly could make another model of it.
    config = shrink(spec.config).config if spec.remote_code is None else spec.config
    check_size(spec, config)
    config = applied(config, scenario)
    old, new = _flat(spec.config), _flat(config)
    keys = [*old, *(key for key in new if key not in old)]
    return Small(config, {key: [old.get(key), new.get(key)] for key in keys if old.get(key) != new.get(key)})


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
