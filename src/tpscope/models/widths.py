"""Narrow tensors that divide as the published ones do: head counts stay, head_dim and everything on it shrinks."""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd
from typing import Any

HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
FEED_FORWARD = (
    "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "intermediate_size_mlp", "dense_intermediate_size",
    "moe_intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size",
    "shared_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size",
)  # fmt: skip
# Other names of the hidden size, in configs that have two.
_AS_HIDDEN = ("word_embed_proj_dim", "embedding_size", "lru_width", "cross_attention_hidden_size")
_OTHER_HEAD_DIMS = ("global_head_dim", "swa_head_dim", "linear_key_head_dim", "linear_value_head_dim", "index_head_dim")
_STATE = ("mamba_d_state", "ssm_state_size", "state_size")
_RANKS = {"q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8}

DIVISIBILITY = 64
HEAD_DIM = 8
SMALL_STATE = 16
# Lengths and batches of the proofs: a width equal to one of them would hide a confusion of dimensions.
_SEQUENCES = (64, 128)


def pick(least: float, old: int, avoid: Iterable[int]) -> int:
    """The smallest width from `least` on with the gcd with 64 that `old` has, not in `avoid`; never above `old`."""
    taken = set(avoid)
    value = max(1, int(-(-least // 1)))
    while gcd(value, DIVISIBILITY) != gcd(old, DIVISIBILITY) or value in taken:
        value += 1
    return min(value, old)


def narrow(config: dict[str, Any]) -> int:
    """Shrink the widths of `config` in place. Returns the rotary width of a head, 0 where there is none."""
    old_hidden = first(config, HIDDEN)
    heads = first(config, HEADS)
    latent = isinstance(config.get("kv_lora_rank"), int)
    old_head_dim = config.get("head_dim") or (old_hidden // heads if old_hidden and heads else None)
    if not isinstance(old_head_dim, int) or old_hidden is None:
        return 0
    # A Mamba without attention has its heads on the expanded width.
    expand = config.get("expand", 1) if "num_attention_heads" not in config else 1
    tied = heads is not None and not latent and old_hidden * expand == heads * old_head_dim
    head_dim = _head_dim(config, heads or 1, old_head_dim, tied)
    attention = _latent(config, heads or 1) if latent else _projections(config, heads or 1, head_dim)
    if isinstance(config.get("head_dim"), int):
        follows = latent and config["head_dim"] == config.get("qk_rope_head_dim")
        config["head_dim"] = _RANKS["qk_rope_head_dim"] if follows else head_dim
    _scaled_head_dims(config, old_head_dim, head_dim)
    mamba = {(first(config, ("mamba_n_heads", "mamba_num_heads")) or 0) * HEAD_DIM}
    hidden = (heads or 1) * head_dim // expand if tied else _free_hidden(config, old_hidden, attention | mamba, heads)
    for key in (*HIDDEN, *_AS_HIDDEN):
        if config.get(key) == old_hidden:
            config[key] = hidden
    _state_space(config, hidden)
    _feed_forward(config, {hidden, *attention, *_SEQUENCES}, hidden)
    if latent:
        return first(config, ("qk_rope_head_dim",)) or 0
    return _rotary(config, head_dim)


def first(config: dict[str, Any], keys: Iterable[str]) -> int | None:
    """The first of `keys` that is a positive whole number in `config`."""
    values = (config.get(key) for key in keys)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _head_dim(config: dict[str, Any], heads: int, old: int, tied: bool) -> int:
    """The smallest head_dim that rotates a whole, even number of dimensions under every partial_rotary_factor."""
    factors = list(_partial_factors(config, old))
    for value in range(HEAD_DIM, old, 4):
        rotated = [value * factor for factor in factors]
        if all(abs(width - round(width)) < 1e-6 and round(width) % 2 == 0 for width in rotated) and (
            not tied or _expands(config, heads * value)
        ):
            return value
    return old


def _partial_factors(config: dict[str, Any], head_dim: int) -> Iterable[float]:
    for key in ("partial_rotary_factor", "rotary_pct", "rope_pct"):
        if isinstance(config.get(key), (int, float)):
            yield config[key]
    if isinstance(config.get("rotary_dim"), int):
        yield config["rotary_dim"] / head_dim
    for value in config.values():
        if isinstance(value, dict) and "partial_rotary_factor" in str(value):
            yield from _partial_factors(value, head_dim)


def _rotary(config: dict[str, Any], head_dim: int) -> int:
    factor = next(iter(_partial_factors(config, head_dim)), 1.0)
    return round(head_dim * factor)


def _projections(config: dict[str, Any], heads: int, head_dim: int) -> set[int]:
    kv = first(config, KV_HEADS) or heads
    return {heads * head_dim, kv * head_dim, (heads + 2 * kv) * head_dim}


def _latent(config: dict[str, Any], heads: int) -> set[int]:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): low ranks and a head in two parts."""
    equal = config.get("v_head_dim") == config.get("qk_nope_head_dim")
    for key, small in {**_RANKS, "v_head_dim": 16 if equal else 12}.items():
        if isinstance(config.get(key), int):
            config[key] = min(config[key], small)
    nope, rope, value = (first(config, (key,)) or 0 for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    if isinstance(config.get("qk_head_dim"), int):
        config["qk_head_dim"] = nope + rope
    ranks = {first(config, ("q_lora_rank",)) or 0, config["kv_lora_rank"], config["kv_lora_rank"] + rope}
    return {heads * (nope + rope), heads * value, heads * (nope + value), *ranks}


def _scaled_head_dims(config: dict[str, Any], old: int, new: int) -> None:
    """Head sizes of a second kind of layer keep their ratio to head_dim."""
    for key in _OTHER_HEAD_DIMS if "kv_lora_rank" in config else (*_OTHER_HEAD_DIMS, "v_head_dim"):
        if isinstance(config.get(key), int):
            config[key] = min(config[key], max(HEAD_DIM, config[key] * new // old // 2 * 2))
    exceptions = config.get("per_layer_config")
    for layer in exceptions.values() if isinstance(exceptions, dict) else ():
        if isinstance(layer, dict) and isinstance(layer.get("head_dim"), int):
            layer["head_dim"] = layer["head_dim"] * new // old
    if isinstance(config.get("rotary_dim"), int):
        config["rotary_dim"] = config["rotary_dim"] * new // old


def _free_hidden(config: dict[str, Any], old: int, avoid: set[int], heads: int | None) -> int:
    """A hidden size that is no product of heads and head_dim, but a multiple of heads where the published one is."""
    unit = heads if heads and old % heads == 0 else 1
    least = 96.0
    while True:
        hidden = pick(least, old, {*avoid, *_SEQUENCES})
        if hidden == old or (hidden % unit == 0 and _expands(config, hidden)):
            return hidden
        least = hidden + 1


def _expands(config: dict[str, Any], hidden: int) -> bool:
    """False if Mamba heads would have to cut mamba_expand * hidden into unequal pieces."""
    heads = first(config, ("mamba_n_heads",))
    if heads is None or isinstance(config.get("mamba_d_ssm"), int):
        return True
    return config.get("mamba_expand", 2) * hidden % heads == 0


def _state_space(config: dict[str, Any], hidden: int) -> None:
    """Mamba's sizes (Mamba-2, arXiv:2405.21060): heads stay, their width and the state shrink."""
    heads = first(config, ("mamba_n_heads",))
    if heads is not None:
        head_dim = HEAD_DIM
        if isinstance(config.get("mamba_d_ssm"), int):
            config["mamba_d_ssm"] = heads * head_dim
        else:
            head_dim = config.get("mamba_expand", 2) * hidden // heads
        if isinstance(config.get("mamba_d_head"), int):
            config["mamba_d_head"] = head_dim
    if isinstance(config.get("mamba_num_heads"), int) and isinstance(config.get("mamba_head_dim"), int):
        config["mamba_head_dim"] = min(config["mamba_head_dim"], HEAD_DIM)
    for key in (*_STATE, "mamba_chunk_size", "chunk_size"):
        if isinstance(config.get(key), int):
            config[key] = min(config[key], SMALL_STATE)
    if isinstance(config.get("mamba_dt_rank"), int):
        config["mamba_dt_rank"] = min(config["mamba_dt_rank"], HEAD_DIM)


def _feed_forward(config: dict[str, Any], avoid: set[int], hidden: int) -> None:
    least = max(64.0, 1.5 * hidden)
    chosen: dict[int, int] = {}
    for key in FEED_FORWARD:
        old = config.get(key)
        for value in old if isinstance(old, list) else [old]:
            if isinstance(value, int) and value not in chosen:
                chosen[value] = pick(least, value, {*avoid, *chosen.values()})
        if isinstance(old, list):
            config[key] = [chosen.get(value, value) for value in old]
        elif isinstance(old, int):
            config[key] = chosen[old]
