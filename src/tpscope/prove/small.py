"""The proof-sized model of a case: shrunk, with what its scenario sets in the config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tpscope.errors import UserError
from tpscope.language.proof import Scenario
from tpscope.models.shrink import shrink
from tpscope.models.spec import ModelSpec
from tpscope.models.widths import FEED_FORWARD, HIDDEN, first
from tpscope.prove.scenarios import applied

WIDEST = 4096
DEEPEST = 16
_TEXT = ("text_config", "llm_config", "language_config")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True)
class Small:
    """A config that a CPU proves in a second, and what was changed of the published one: key -> [published, small]."""

    config: dict[str, Any]
    changed: dict[str, list[Any]]


def small(spec: ModelSpec, scenario: Scenario) -> Small:
    """The model of a case. Raises UserError with the property that stands in the way of a small one."""
    # Custom code reads its own keys: shrinking them blindly could make another model of it.
    config = shrink(spec.config).config if spec.remote_code is None else spec.config
    _check(spec, config)
    config = applied(config, scenario)
    old, new = _flat(spec.config), _flat(config)
    keys = [*old, *(key for key in new if key not in old)]
    return Small(config, {key: [old.get(key), new.get(key)] for key in keys if old.get(key) != new.get(key)})


def _check(spec: ModelSpec, config: dict[str, Any]) -> None:
    text = next((config[key] for key in _TEXT if isinstance(config.get(key), dict)), config)
    hidden, layers = first(text, HIDDEN), first(text, _LAYERS)
    if hidden is None:
        raise UserError(
            f"{spec.name} cannot be shrunk to a proof-sized model: its config has no width under a name that is known "
            f"here ({', '.join(HIDDEN)}); give a small config.json of the same structure"
        )
    own = " (its own code may read keys that are not known here)" if spec.remote_code else ""
    for what, size, most in (
        ("hidden size", hidden, WIDEST),
        ("feed-forward width", first(text, FEED_FORWARD) or 0, 2 * WIDEST),
        ("number of layers", layers or 0, DEEPEST),
        ("vocabulary", first(text, ("vocab_size",)) or 0, 2 * WIDEST),
    ):
        if size > most:
            raise UserError(
                f"{spec.name} cannot be shrunk to a proof-sized model: its {what} stays at {size}, over {most}{own}; "
                "give a small config.json of the same structure"
            )


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
