"""A published config to a proof-sized one of the same structure: JSON to JSON, no framework.

Kept: every kind of layer, head counts, what divides what (gcd with 64), experts up to 16, biases, tied weights,
multipliers, activation functions. Shrunk: layers, widths, vocabulary, positions, windows. What is not known stays.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import gcd
from typing import Any

from tpscope.models.layers import shorten
from tpscope.models.widths import FEED_FORWARD, HIDDEN, first, narrow, pick

POSITIONS = 128
WINDOW = 16
EXPERTS = 16
SMALLEST_VOCABULARY = 300

_ROPE = ("rope_scaling", "rope_parameters")
_POSITION_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")
_WINDOW_KEYS = ("sliding_window", "sliding_window_size", "attention_chunk_size", "window_size", "local_attention")
_EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts")
_CHOSEN_KEYS = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_top_k", "top_k_experts",
)  # fmt: skip
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_FIRST_FREE_TOKEN = 3
_TEXT = ("text_config", "llm_config", "language_config")
_TOWERS = ("vision_config", "audio_config", "encoder_config")


@dataclass(frozen=True)
class Shrunk:
    """A small config, and what differs: dotted key -> (published value, small value), None where there is none."""

    config: dict[str, Any]
    changed: dict[str, tuple[Any, Any]]


def shrink(config: dict[str, Any], experts: int = EXPERTS) -> Shrunk:
    """The proof-sized config of the same structure, with at most `experts` experts. `config` is left as it is."""
    small = _small(copy.deepcopy(config), experts)
    return Shrunk(small, dict(_differences(config, small)))


def _small(config: dict[str, Any], experts: int) -> dict[str, Any]:
    hidden = first(config, HIDDEN)
    for key in (*_TEXT, *_TOWERS):
        if isinstance(config.get(key), dict):
            hidden = hidden or first(config[key], HIDDEN)
            config[key] = _small(config[key], experts)
    shorten(config)
    rotary = narrow(config)
    _experts(config, experts)
    _vocabulary(config)
    _tokens(config)
    _positions(config, rotary)
    for key in _WINDOW_KEYS:
        if isinstance(config.get(key), int) and not isinstance(config[key], bool):
            config[key] = min(config[key], WINDOW)
    _numbers(config)
    _projector(config, hidden)
    return config


def _experts(config: dict[str, Any], most: int) -> None:
    """At most `most` experts, and a router that still has a choice in every group it may take."""
    old = first(config, _EXPERT_KEYS)
    if old is None or old <= most:
        return
    experts = next(count for count in range(most, 0, -1) if gcd(count, most) == gcd(old, most))
    for key in _EXPERT_KEYS:
        if config.get(key) == old:
            config[key] = experts
    allowed = experts
    if groups := first(config, ("n_group",)):
        groups = max(count for count in range(1, min(groups, experts // 2) + 1) if experts % count == 0)
        config["n_group"] = groups
        if taken := first(config, ("topk_group",)):
            config["topk_group"] = min(taken, groups)
            allowed = experts // groups * config["topk_group"]
    for key in _CHOSEN_KEYS:
        if isinstance(config.get(key), int):
            config[key] = min(config[key], max(1, allowed // 2))


def _vocabulary(config: dict[str, Any]) -> None:
    avoid = {config[key] for key in (*HIDDEN, *FEED_FORWARD) if isinstance(config.get(key), int)}
    for key in ("vocab_size", "vocab_size_per_layer_input"):
        if isinstance(config.get(key), int):
            config[key] = pick(SMALLEST_VOCABULARY, config[key], avoid)


def _tokens(config: dict[str, Any]) -> None:
    size = config.get("vocab_size")
    if not isinstance(size, int):
        return
    # Class defaults of these may lie outside the small vocabulary; the padding token even decides about a gradient.
    for key, value in {**_TOKENS, "pad_token_id": None}.items():
        config.setdefault(key, value)
    free = _FIRST_FREE_TOKEN
    for key, value in config.items():
        if not key.endswith(("_token_id", "_token_index")):
            continue
        if isinstance(value, list):
            config[key] = [_TOKENS.get(key, free)]
        elif isinstance(value, int) and key in _TOKENS:
            config[key] = _TOKENS[key]
        elif isinstance(value, int) and value >= size:
            config[key] = free
            free += 1


def _positions(config: dict[str, Any], rotary: int) -> None:
    if any(_yarn(config[key]) for key in _ROPE if isinstance(config.get(key), dict)):
        # YaRN's ramp lies between two dimensions that follow from the published lengths, and is empty for short ones.
        return
    old = first(config, _POSITION_KEYS)
    for key in _POSITION_KEYS:
        if isinstance(config.get(key), int):
            config[key] = min(config[key], POSITIONS)
    new = first(config, _POSITION_KEYS)
    if old is None or new is None:
        return
    _original_positions(config, old, new)
    for key in _ROPE:
        if isinstance(config.get(key), dict):
            _rope(config[key], old, new, rotary)


def _yarn(rope: dict[str, Any]) -> bool:
    own = rope.get("rope_type", rope.get("type")) == "yarn"
    return own or any(_yarn(value) for value in rope.values() if isinstance(value, dict))


def _rope(rope: dict[str, Any], old: int, new: int, rotary: int) -> None:
    before = rope.get("original_max_position_embeddings")
    _original_positions(rope, old, new)
    after = rope.get("original_max_position_embeddings")
    if before and after and rope.get("factor") == old / before:
        rope["factor"] = type(rope["factor"])(new / after)
    half = rotary // 2
    for key in ("short_factor", "long_factor"):
        if isinstance(values := rope.get(key), list) and half:
            rope[key] = [values[index * len(values) // half] for index in range(half)]
    if isinstance(sections := rope.get("mrope_section"), list) and half >= len(sections):
        share = half // len(sections)
        rope["mrope_section"] = [half - share * (len(sections) - 1), *[share] * (len(sections) - 1)]
    for value in rope.values():
        if isinstance(value, dict):
            _rope(value, old, new, rotary)


def _original_positions(config: dict[str, Any], old: int, new: int) -> None:
    key = "original_max_position_embeddings"
    if isinstance(config.get(key), int):
        config[key] = min(new, max(32, config[key] * new // old))


def _numbers(config: dict[str, Any]) -> None:
    for key in ("torch_dtype", "dtype"):
        if config.get(key) is not None:
            config[key] = "float32"
    config.pop("quantization_config", None)
    if first(config, HIDDEN) is not None:
        config["use_cache"] = False


def _projector(config: dict[str, Any], old_hidden: int | None) -> None:
    """A vision tower whose output is as wide as the text model follows it."""
    tower = config.get("vision_config")
    text = next((config[key] for key in _TEXT if isinstance(config.get(key), dict)), config)
    new_hidden = first(text, HIDDEN)
    if isinstance(tower, dict) and old_hidden is not None and tower.get("out_hidden_size") == old_hidden:
        tower["out_hidden_size"] = new_hidden


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, tuple[Any, Any]]]:
    found: list[tuple[str, tuple[Any, Any]]] = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append((f"{prefix}{key}", (before, after)))
    return found
