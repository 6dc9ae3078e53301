"""An Axolotl training YAML: its model, its layout and its LoRA, as far as the file states them.

The keys are those of axolotl@0.19.0 `axolotl/utils/schemas/config.py`, `peft.py`, `model.py`, `training.py` and of
its integrations' `args.py`; older spellings are read too. What Axolotl derives from the world size is left to it.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from tpscope.errors import UserError
from tpscope.language.layout import Layout, Lora
from tpscope.models.fields import Fields, interpolated
from tpscope.models.spec import Intent, Reference

LAYOUT_KEYS = {
    "tp": "tensor_parallel_size",
    "cp": "context_parallel_size",
    "dp_shard": "dp_shard_size",
    "dp_replicate": "dp_replicate_size",
}
_OLD_CP = "sequence_parallel_degree"

SETTING_KEYS = (
    "gradient_accumulation_steps", "micro_batch_size", "batch_size", "max_grad_norm", "sequence_len",
    "sample_packing", "eval_sample_packing", "pad_to_sequence_len", "batch_flattening", "optimizer", "optim_args",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "selective_checkpointing", "activation_offloading",
    "layer_offloading", "deepspeed", "deepcompile", "plugins", "cut_cross_entropy", "chunked_cross_entropy",
    "flash_attn_cross_entropy", "tiled_mlp", "experts_implementation", "expert_parallel_size", "ring_attn_func",
    "heads_k_stride", "attn_implementation", "flash_attention", "sdp_attention", "flex_attention",
    "xformers_attention", "eager_attention", "sage_attention", "bf16", "fp16", "fp8", "bfloat16", "float16", "tf32",
    "load_in_4bit", "load_in_8bit", "adapter", "rl", "reward_model", "trainer_cls", "unfrozen_parameters",
    "neftune_noise_alpha", "tokens", "resize_token_embeddings_to_32x", "shrink_embeddings", "reinit_weights",
    "embeddings_skip_upcast", "fp32_norms", "use_kernels", "type_of_model", "model_type", "qat", "quantization",
)  # fmt: skip
_SETTING_PREFIXES = ("fsdp", "lora_", "peft", "liger_", "torch_compile", "accelerator_config", "ddp", "dion_")


def intent(data: dict[Any, Any], path: Path) -> tuple[Reference, Intent]:
    """Read one Axolotl YAML. Raises UserError for a value that cannot mean anything, naming its key."""
    fields = Fields(data, str(path))
    notes: list[str] = []
    layout, stated = _layout(fields, notes)
    _near_misses(fields, notes)
    return _model(fields), Intent(
        kind="axolotl",
        path=path,
        layout=layout,
        stated=stated,
        lora=_lora(fields, notes),
        trust_remote_code=bool(fields.flag("trust_remote_code")),
        world=fields.whole("world_size"),
        settings=_settings(fields, notes),
        notes=tuple(notes),
    )


def _model(fields: Fields) -> Reference:
    key = "base_model_config" if fields.has("base_model_config") else "base_model"
    text = fields.text(key)
    if not text:
        raise UserError(f"{fields.place('base_model')} is empty, so there is no model; write a hub id or a directory")
    revisions = [name for name in ("revision_of_model", "model_revision") if fields.has(name)]
    notes = ["the config is read from base_model_config, the weights from base_model"] if key != "base_model" else []
    overrides: dict[str, Any] = {}
    for name in ("overrides_of_model_config", "model_config"):
        if section := fields.section(name):
            overrides |= section.data
    return Reference(
        key, text, fields.text(revisions[0]) if revisions else None, overrides=overrides, notes=tuple(notes)
    )


def _layout(fields: Fields, notes: list[str]) -> tuple[Layout, frozenset[str]]:
    keys = dict(LAYOUT_KEYS)
    if fields.has(_OLD_CP):
        if fields.has(keys["cp"]):
            notes.append(f"{_OLD_CP} is an old name of context_parallel_size, which is stated too and wins")
        else:
            keys["cp"] = _OLD_CP
            notes.append(
                f"{_OLD_CP} is Axolotl's old name of context_parallel_size: it is read as cp, "
                "and is not the sequence parallelism that goes with tp"
            )
    sizes: dict[str, Any] = {}
    for axis, key in keys.items():
        size = fields.whole(key)
        if size is not None and size < 1:
            notes.append(f"{key}: {size} counts as not stated")
        elif size is not None:
            sizes[axis] = size
    return Layout(**sizes), frozenset(sizes)


def _lora(fields: Fields, notes: list[str]) -> Lora | None:
    adapter = fields.text("adapter")
    if adapter is None:
        return None
    if adapter not in ("lora", "qlora"):
        notes.append(f"adapter: {adapter} is neither lora nor qlora, so no LoRA is read from it")
        return None
    if adapter == "qlora":
        notes.append("adapter: qlora is read as LoRA; the 4-bit base weights are in the settings (load_in_4bit)")
    rank, alpha = fields.whole("lora_r"), fields.whole("lora_alpha")
    for key, value in (("lora_r", rank), ("lora_alpha", alpha)):
        if value is None:
            raise UserError(
                f"{fields.place(key)} is not stated beside adapter: {adapter}, and Axolotl has no default for it; "
                f"write {key}"
            )
    assert rank is not None
    assert alpha is not None
    return Lora(rank, alpha, _targets(fields, notes), fields.number("lora_dropout") or 0.0)


def _targets(fields: Fields, notes: list[str]) -> tuple[str, ...]:
    names = fields.names("lora_target_modules") or ()
    if fields.flag("lora_target_linear"):
        if names:
            notes.append("lora_target_linear adds every Linear layer to lora_target_modules: read as all-linear")
        return ("all-linear",)
    if isinstance(fields.raw("lora_target_modules"), str) and names != ("all-linear",):
        notes.append("lora_target_modules is one string, which PEFT matches as a regular expression on the whole name")
    if not names:
        notes.append("an adapter without lora_target_modules or lora_target_linear: no Linear layer is named")
    return names


def _settings(fields: Fields, notes: list[str]) -> dict[str, Any]:
    kept = {
        str(key): value
        for key, value in fields.data.items()
        if (key in SETTING_KEYS or str(key).startswith(_SETTING_PREFIXES)) and fields.has(key)
    }
    if (fields.whole("expert_parallel_size") or 1) > 1:
        notes.append("expert_parallel_size is no axis of the layout; it is kept in the settings")
    if fields.has("tokens"):
        notes.append("tokens adds to the vocabulary, so the trained model has more rows than the published config says")
    for key, value in kept.items():
        if interpolated(value):
            notes.append(f"{key} is {value!r}, kept as it is: Axolotl does not fill it in, and neither is it done here")
    return kept


def _near_misses(fields: Fields, notes: list[str]) -> None:
    """Axolotl lets unknown keys pass, so a misspelt size is silently no size."""
    known = (*LAYOUT_KEYS.values(), _OLD_CP)
    for key in map(str, fields.data):
        if key not in known and (near := difflib.get_close_matches(key, known, 1, 0.85)):
            notes.append(f"{key} is no key of Axolotl's and nothing reads it; {near[0]} is one")
