"""A NeMo AutoModel recipe: its model, its layout and its LoRA, as far as the file states them.

The keys are those of nemo-automodel@0.7.0 `recipes/_dist_utils.py:parse_distributed_section` and
`components/_peft/lora.py:PeftConfig`, and of 0.2.0 `components/distributed/fsdp2.py:FSDP2Manager`. Which version runs
is not known here, so both spellings are read; what NeMo derives from the world size is left to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tpscope.errors import UserError
from tpscope.language.layout import Layout, Lora
from tpscope.models.fields import Fields, interpolated
from tpscope.models.spec import Intent, Reference

_SIZES = {"tp_size": "tp", "cp_size": "cp", "pp_size": "pp"}
_PLAN_KEYS = ("tp_plan", "custom_tp_plan")
_READ_ELSEWHERE = {
    "distributed": {"dp_size", "dp_replicate_size", "sequence_parallel", "world_size", *_SIZES, *_PLAN_KEYS},
    "model": {"pretrained_model_name_or_path", "config"},
    "peft": {"dim", "alpha", "dropout", "dropout_position", "target_modules"},
}
# Arguments of from_pretrained and from_config that say how to load, and are no field of the config.
_LOADING = {
    "_target_", "pretrained_model_name_or_path", "config", "name_or_path", "trust_remote_code", "revision",
    "torch_dtype", "dtype", "attn_implementation", "_attn_implementation", "cache_dir", "use_cache",
}  # fmt: skip
_SETTING_SECTIONS = (
    "step_scheduler", "clip_grad_norm", "packed_sequence", "compile", "quantization", "fp8", "qat", "freeze_config",
    "loss_fn", "optimizer", "parallelizer",
)  # fmt: skip


def intent(data: dict[Any, Any], path: Path) -> tuple[Reference, Intent]:
    """Read one NeMo recipe. Raises UserError for a value that cannot mean anything, naming its key."""
    fields = Fields(data, str(path))
    notes: list[str] = []
    distributed = fields.section("distributed") or Fields({}, str(path), "distributed.")
    sequence = distributed.flag("sequence_parallel")
    layout, stated = _layout(distributed, bool(sequence), notes)
    reference, trusted = _model(fields)
    return reference, Intent(
        kind="nemo",
        path=path,
        layout=layout,
        stated=stated,
        lora=_lora(fields, notes),
        sequence_parallel=sequence,
        custom_plan=_plan(distributed, notes),
        trust_remote_code=trusted,
        world=distributed.whole("world_size"),
        settings=_settings(fields, notes),
        notes=tuple(notes),
    )


def _model(fields: Fields) -> tuple[Reference, bool]:
    model = fields.section("model") or Fields({}, fields.file, "model.")
    trusted = bool(model.flag("trust_remote_code"))
    key = f"{model.prefix}pretrained_model_name_or_path"
    if (text := model.text("pretrained_model_name_or_path")) is not None:
        # from_pretrained hands what it does not know to the config, which takes the names that it has.
        merged = {key: value for key, value in model.data.items() if key not in _LOADING}
        inner = model.raw("config")
        overrides = _overrides(inner) if isinstance(inner, dict) else {}
        return Reference(key, text, model.text("revision"), None, overrides, merged), trusted
    if isinstance(model.raw("config"), str):
        return Reference(f"{model.prefix}config", model.text("config") or ""), trusted
    if (config := model.section("config")) is None:
        raise UserError(
            f"{model.place('pretrained_model_name_or_path')} is not stated, nor is model.config, so the recipe names "
            "no published model; write a hub id or a directory there"
        )
    trusted = trusted or bool(config.flag("trust_remote_code"))
    if (text := config.text("pretrained_model_name_or_path")) is not None:
        key = f"{config.prefix}pretrained_model_name_or_path"
        return Reference(key, text, config.text("revision"), None, _overrides(config.data)), trusted
    return _inline(config), trusted


def _overrides(config: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in config.items() if key not in _LOADING}


def _inline(config: Fields) -> Reference:
    """A config written out in the recipe: `_target_` names the class, and the class the model type."""
    target = config.text("_target_") or ""
    values = {str(key): value for key, value in config.data.items() if key != "_target_"}
    notes = []
    if "model_type" not in values:
        parts = target.split(".")
        if parts[:2] != ["transformers", "models"] or len(parts) < 4:
            raise UserError(
                f"{config.place('_target_')} is {target!r}, which does not tell the model type of the config written "
                "there; add model_type to it or name a published model with pretrained_model_name_or_path"
            )
        values["model_type"] = parts[2]
        notes.append(f"model_type {parts[2]} is taken from the package in {target}")
    return Reference(config.prefix.rstrip("."), inline=values, notes=tuple(notes))


def _layout(distributed: Fields, sequence: bool, notes: list[str]) -> tuple[Layout, frozenset[str]]:
    sizes: dict[str, Any] = {}
    for key, axis in _SIZES.items():
        if (size := _size(distributed, key, notes)) is not None:
            sizes[axis] = size
    total, replicate = (_size(distributed, key, notes) for key in ("dp_size", "dp_replicate_size"))
    strategy = f"{distributed.text('strategy') or ''} {distributed.text('_target_') or ''}".lower()
    if replicate is not None:
        sizes["dp_replicate"] = replicate
    if total is not None and "ddp" in strategy:
        sizes["dp_replicate"] = total
        notes.append("dp_size under ddp counts replicas: read as dp_replicate")
    elif total is not None:
        if total % (replicate or 1):
            raise UserError(
                f"{distributed.place('dp_size')} is {total}, which dp_replicate_size {replicate} does not divide, and "
                "NeMo shards over dp_size / dp_replicate_size ranks; make dp_size a multiple"
            )
        sizes["dp_shard"] = total // (replicate or 1)
        if replicate is not None and replicate > 1:
            notes.append(f"dp_size {total} is dp_replicate x dp_shard: read as {replicate} x {total // replicate}")
    if (_size(distributed, "ep_size", notes) or 1) > 1:
        notes.append("ep_size is no axis of the layout: it is kept in the settings")
    return Layout(**sizes, sequence_parallel=sequence), frozenset(sizes)


def _size(distributed: Fields, key: str, notes: list[str]) -> int | None:
    size = distributed.whole(key)
    if size is None or size >= 1:
        return size
    notes.append(f"{distributed.prefix}{key}: {size} counts as not stated")
    return None


def _plan(distributed: Fields, notes: list[str]) -> str | None:
    for key in _PLAN_KEYS:
        value = distributed.raw(key)
        if isinstance(value, dict):
            notes.append(f"{distributed.prefix}{key} is a plan written in the recipe; it is kept in the settings")
        elif value is not None:
            return distributed.text(key)
    return None


def _lora(fields: Fields, notes: list[str]) -> Lora | None:
    peft = fields.section("peft")
    if peft is None:
        return None
    target = peft.text("_target_") or "PeftConfig"
    if not target.endswith("PeftConfig"):
        notes.append(f"peft._target_ is {target}, which is not NeMo's PeftConfig, so no LoRA is read from it")
        return None
    rank, alpha = peft.whole("dim"), peft.whole("alpha")
    for key, value, default in (("dim", rank, 8), ("alpha", alpha, 32)):
        if value is None:
            notes.append(f"peft.{key} is not stated: {default}, the default of NeMo's PeftConfig")
    if fields.has("quantization"):
        notes.append("peft with quantization (QLoRA) is read as LoRA; the quantization is in the settings")
    dropout, position = peft.number("dropout") or 0.0, peft.text("dropout_position") or ""
    return Lora(8 if rank is None else rank, 32 if alpha is None else alpha, _targets(peft, notes), dropout, position)


def _targets(peft: Fields, notes: list[str]) -> tuple[str, ...]:
    if peft.flag("match_all_linear"):
        return ("all-linear",)
    if names := peft.names("target_modules"):
        return names
    if excluded := peft.names("exclude_modules"):
        notes.append(f"every Linear layer but {', '.join(excluded)} (peft.exclude_modules): read as all-linear")
        return ("all-linear",)
    notes.append("peft names no modules: *_proj, which NeMo 0.6 and 0.7 take then (0.2 refuses)")
    return ("*_proj",)


def _settings(fields: Fields, notes: list[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key in ("distributed", "model", "peft", *_SETTING_SECTIONS):
        if not isinstance(fields.raw(key), dict):
            if fields.has(key):
                kept[key] = fields.raw(key)
            continue
        skip = _READ_ELSEWHERE.get(key, set())
        section = Fields(fields.raw(key), fields.file, f"{key}.")
        kept |= {path: value for path, value in section.leaves() if path.split(".")[1] not in skip}
    for key in _PLAN_KEYS:
        if isinstance(inline := (fields.raw("distributed") or {}).get(key), dict):
            kept[f"distributed.{key}"] = inline
    if fields.has("recipe"):
        recipe = fields.raw("recipe")
        kept["recipe"] = recipe.get("_target_") if isinstance(recipe, dict) else recipe
    for path, value in kept.items():
        if interpolated(value):
            notes.append(f"{path} is {value!r}, kept as it is: NeMo fills it in from its environment")
    return kept
