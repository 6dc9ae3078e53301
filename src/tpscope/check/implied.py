"""Which of prove's scenarios a file asks for, and the keys that ask."""

from __future__ import annotations

from typing import Any

from tpscope.check.layout import axis_key
from tpscope.language.layout import Layout
from tpscope.models.spec import Intent, ModelSpec

_TEXT = ("text_config", "llm_config", "language_config")


def implied(intent: Intent, spec: ModelSpec, layout: Layout) -> dict[str, str]:
    """Scenario name to the key of the file (or of the model's config) that implies it, in a fixed order."""
    found: dict[str, str] = {}
    if layout.sequence_parallel:
        found["sequence-parallel"] = "distributed.sequence_parallel"
    if intent.lora is not None:
        found["lora"] = "adapter" if intent.kind == "axolotl" else "peft"
    by_kind = _axolotl if intent.kind == "axolotl" else _nemo
    found |= by_kind(intent.settings, layout)
    if layout.dp_shard > 1:
        found.setdefault("fsdp", axis_key(intent.kind, "dp_shard"))
    if layout.cp > 1:
        found["cp"] = axis_key(intent.kind, "cp")
    if layout.pp > 1:
        found["pp"] = axis_key(intent.kind, "pp")
    dropped = [f"{prefix}{key}" for prefix, key, value in _values(spec.config) if "dropout" in key and _positive(value)]
    if dropped or (intent.lora is not None and intent.lora.dropout):
        own = "lora_dropout" if intent.kind == "axolotl" else "peft.dropout"
        found["dropout"] = own if intent.lora is not None and intent.lora.dropout else f"config {dropped[0]}"
    if any(key == "tie_word_embeddings" and value is True for _, key, value in _values(spec.config)):
        found["tied"] = "config tie_word_embeddings"
    return {name: found[name] for name in sorted(found)}


def _axolotl(settings: dict[str, Any], layout: Layout) -> dict[str, str]:
    found: dict[str, str] = {}
    if _number(settings.get("gradient_accumulation_steps")) > 1:
        found["accumulate"] = "gradient_accumulation_steps"
    # transformers' Trainer clips at 1.0 where nothing is said.
    if "max_grad_norm" not in settings or _number(settings["max_grad_norm"]) > 0:
        found["clip"] = "max_grad_norm"
    fsdp = settings.get("fsdp_config") or {}
    if settings.get("gradient_checkpointing") or fsdp.get("activation_checkpointing"):
        found["checkpoint"] = "gradient_checkpointing" if settings.get("gradient_checkpointing") else "fsdp_config"
    if settings.get("sample_packing") or settings.get("batch_flattening"):
        found["packed"] = "sample_packing" if settings.get("sample_packing") else "batch_flattening"
    if settings.get("torch_compile"):
        found["compile"] = "torch_compile"
    return found


def _nemo(settings: dict[str, Any], layout: Layout) -> dict[str, str]:
    found: dict[str, str] = {}
    whole, local = (_number(settings.get(f"step_scheduler.{key}")) for key in ("global_batch_size", "local_batch_size"))
    if whole > max(local, 1) * layout.dp_shard * layout.dp_replicate:
        found["accumulate"] = "step_scheduler.global_batch_size"
    # NeMo's recipe clips at 1.0 where nothing is said.
    stated = settings.get("clip_grad_norm.max_norm")
    if stated is None or _number(stated) > 0:
        found["clip"] = "clip_grad_norm.max_norm"
    if settings.get("distributed.activation_checkpointing") not in (None, False):
        found["checkpoint"] = "distributed.activation_checkpointing"
    if _number(settings.get("packed_sequence.packed_sequence_size")) > 0:
        found["packed"] = "packed_sequence.packed_sequence_size"
    if settings.get("compile.enabled"):
        found["compile"] = "compile.enabled"
    return found


def _values(config: dict[str, Any]) -> list[tuple[str, str, Any]]:
    found = [("", key, value) for key, value in config.items()]
    for part in _TEXT:
        if isinstance(config.get(part), dict):
            found += [(f"{part}.", key, value) for key, value in config[part].items()]
    return found


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0
