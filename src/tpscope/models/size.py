"""Whether a config is small enough for a proof on a CPU."""

from __future__ import annotations

from typing import Any

from tpscope.errors import UserError
from tpscope.models.spec import ModelSpec
from tpscope.models.widths import FEED_FORWARD, HIDDEN, first

WIDEST = 4096
DEEPEST = 16
_TEXT = ("text_config", "llm_config", "language_config")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def check_size(spec: ModelSpec, config: dict[str, Any]) -> None:
    """Raises UserError with the property of `config`, which was made of a model's own, that makes it too large."""
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
