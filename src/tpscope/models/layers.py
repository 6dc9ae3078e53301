"""Fewer layers, every kind of them kept: what a config says layer by layer, shortened together."""

from __future__ import annotations

from typing import Any

COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
FEWEST, MOST = 2, 4
_LOOKED_AT = 1000

# One value a layer.
_LISTS = (
    "layer_types", "mlp_layer_types", "layers_block_type", "block_types", "no_rope_layers", "rope_layers",
    "moe_layer_freq", "sliding_window_pattern", "hybrid_layer_pattern", "hybrid_override_pattern",
    "activation_sparsity_pattern", "intermediate_size", "num_key_value_heads", "num_attention_heads",
)  # fmt: skip
# The numbers of the layers that are of a kind.
_INDICES = (
    "attn_layer_indices", "full_attn_idxs", "mlp_only_layers", "moe_layers", "hybrid_layer_ids",
    "global_attn_indexes", "fullatt_block_indexes",
)  # fmt: skip
# Every n-th layer is of a kind; the second name is which one of the n.
_PERIODS = {
    "sliding_window_pattern": "", "_sliding_window_pattern": "", "no_rope_layer_interval": "",
    "full_attention_interval": "", "decoder_sparse_step": "", "interleave_moe_layer_step": "", "moe_layer_freq": "",
    "attn_layer_period": "attn_layer_offset", "expert_layer_period": "expert_layer_offset",
}  # fmt: skip
# What single layers have that the others have not, by number.
_EXCEPTIONS = "per_layer_config"
_DENSE_FIRST = ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers")


def shorten(config: dict[str, Any]) -> None:
    """Cut `config` in place to two layers, or up to four where it has more kinds than two."""
    total = layers_of(config)
    if total is None:
        return
    kept = _representatives(config, total)
    keep(config, total, kept)
    _periods(config)
    _others(config, total, len(kept))


def keep(config: dict[str, Any], total: int, kept: list[int]) -> None:
    """Leave only the layers with these numbers in what `config` says layer by layer, in place."""
    for key in COUNTS:
        if key in config:
            config[key] = len(kept)
    for key in _LISTS:
        if (values := config.get(key)) is not None and _per_layer(values, total):
            config[key] = _like(values, [values[index] for index in kept])
    for key in _INDICES:
        if isinstance(config.get(key), list):
            config[key] = [new for new, old in enumerate(kept) if old in config[key]]
    if exceptions := _exceptions(config):
        numbered = {int(old): value for old, value in exceptions.items()}
        config[_EXCEPTIONS] = {str(new): numbered[old] for new, old in enumerate(kept) if old in numbered}
    for key in _DENSE_FIRST:
        if isinstance(config.get(key), int):
            config[key] = sum(index < config[key] for index in kept)


def _representatives(config: dict[str, Any], total: int) -> list[int]:
    """Old numbers of the layers to keep: the first of each kind, in order."""
    kinds: dict[tuple[Any, ...], int] = {}
    for index in range(min(total, _LOOKED_AT)):
        kinds.setdefault(_kind(config, index, total), index)
    kept = list(kinds.values())[:MOST]
    spare = (index for index in range(total) if index not in kept)
    while len(kept) < min(FEWEST, total):
        kept.append(next(spare))
    return sorted(kept)


def kinds(config: dict[str, Any], total: int) -> list[tuple[Any, ...]]:
    """What a config says of each layer: layers that it says the same of are alike."""
    periods = [config[key] for key in _PERIODS if _count(config.get(key))]
    window = config.get("max_window_layers") or total
    shared = config.get("num_kv_shared_layers") or 0
    return [
        (
            *_kind(config, index, total), *(index % period for period in periods),
            index >= window, index >= total - shared,
        )
        for index in range(total)
    ]  # fmt: skip


def layers_of(config: dict[str, Any]) -> int | None:
    """How many decoder layers a config has."""
    return next((config[key] for key in COUNTS if _count(config.get(key))), None)


def _kind(config: dict[str, Any], index: int, total: int) -> tuple[Any, ...]:
    lists = [str(config[key][index]) for key in _LISTS if _per_layer(config.get(key), total)]
    members = [index in config[key] for key in _INDICES if isinstance(config.get(key), list)]
    own = [str(value) for old, value in _exceptions(config).items() if int(old) == index]
    dense = [index < config[key] for key in _DENSE_FIRST if isinstance(config.get(key), int)]
    return (*lists, *members, *own, *dense)


def _exceptions(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get(_EXCEPTIONS)
    return found if isinstance(found, dict) and all(str(key).isdecimal() for key in found) else {}


def _periods(config: dict[str, Any]) -> None:
    for key, offset in _PERIODS.items():
        if _count(config.get(key)):
            config[key] = min(config[key], FEWEST)
            if offset and isinstance(config.get(offset), int):
                config[offset] = min(config[offset], config[key] - 1)


def _others(config: dict[str, Any], total: int, now: int) -> None:
    if _count(config.get("max_window_layers")):
        # From this layer on the window applies: none of them, or all but the first.
        config["max_window_layers"] = now if config["max_window_layers"] >= total else 1
    if _count(config.get("num_kv_shared_layers")):
        config["num_kv_shared_layers"] = 0


def _per_layer(values: Any, total: int) -> bool:
    return isinstance(values, (list, str)) and len(values) == total


def _like(values: Any, kept: list[Any]) -> Any:
    return "".join(kept) if isinstance(values, str) else kept


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
