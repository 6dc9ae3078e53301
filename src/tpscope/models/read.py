"""INPUT, in all its forms, to one model and one intent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tpscope.errors import UserError
from tpscope.models import axolotl_yaml, catalog, hub_cache, nemo_yaml
from tpscope.models.files import Document, json_of, text_of, yaml_of
from tpscope.models.remote_code import remote_code
from tpscope.models.spec import Intent, ModelSpec, Reference, architecture_of

Reader = Callable[[dict[Any, Any], Path], tuple[Reference, Intent]]


def read(text: str, trust_remote_code: bool = False) -> tuple[ModelSpec, Intent]:
    """The model that INPUT names, and what INPUT asks for besides if it is a training YAML.

    INPUT is a catalog name, a directory with a config.json or such a file, a Hugging Face id (from the catalog, else
    from the local cache; nothing is downloaded), an Axolotl YAML or a NeMo recipe. `trust_remote_code` is the user's
    own word, given to us: a YAML's is the framework's to act on. Raises UserError where INPUT is none of these.
    """
    text = text.strip()
    if not text:
        raise UserError(f"INPUT is empty; give a model or a training YAML: {catalog.closest('')}")
    if entry := catalog.by_name(text):
        spec = entry.spec()
        if _exists(text):
            note = f"{text} is also a path here; ./{text} reads that"
            spec = dataclasses.replace(spec, notes=(*spec.notes, note))
        return spec, Intent(trust_remote_code=trust_remote_code)
    if not _exists(text):
        return _hub(text, None, trust_remote_code), Intent(trust_remote_code=trust_remote_code)
    path = Path(text).expanduser()
    if path.is_dir() or path.suffix.lower() == ".json" or _looks_like_json(path):
        return _local(path, trust_remote_code), Intent(trust_remote_code=trust_remote_code)
    return _training(path, trust_remote_code)


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{text[:80]} is no path that can be looked up ({reason}); check it") from error


def _looks_like_json(path: Path) -> bool:
    return path.suffix.lower() not in (".yml", ".yaml") and text_of(path).lstrip().startswith("{")


def _training(path: Path, trusted: bool) -> tuple[ModelSpec, Intent]:
    document = yaml_of(path)
    reference, intent = _family(document, path)(document.data, path)
    notes = [f"{key} repeats a key; the last value counts, as for the framework" for key in document.repeated]
    spec = _referred(reference, path, trusted)
    intent = dataclasses.replace(
        intent, trust_remote_code=intent.trust_remote_code or trusted, notes=(*notes, *intent.notes)
    )
    return spec, intent


def _family(document: Document, path: Path) -> Reader:
    """Which framework a YAML is written for: Axolotl's has base_model, a NeMo recipe a mapping model."""
    keys = [str(key) for key in document.data]
    axolotl = "base_model" in keys
    model = document.data.get("model")
    nemo = isinstance(model, dict) and bool({"_target_", "pretrained_model_name_or_path", "config"} & set(model))
    if axolotl and not nemo:
        return axolotl_yaml.intent
    if nemo and not axolotl:
        return nemo_yaml.intent
    shown = ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")
    if axolotl:
        raise UserError(f"{path} has both Axolotl's base_model and a NeMo recipe's model; keep the one that is meant")
    raise UserError(
        f"{path} is no training YAML of either framework: Axolotl's has base_model, a NeMo recipe has model with "
        f"_target_ or pretrained_model_name_or_path, and this one has {shown}; give one of those"
    )


def _referred(reference: Reference, path: Path, trusted: bool) -> ModelSpec:
    where = f"{path}, key {reference.key}"
    if reference.inline is not None:
        return _spec(reference.inline, path.stem, f"config written in {where}", "local", None, reference.notes)
    try:
        spec = _named(reference, path, trusted)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    config, notes = _overridden(spec.config, reference)
    changed = dataclasses.replace(spec, config=config, architecture=architecture_of(config))
    return dataclasses.replace(changed, notes=(*spec.notes, *reference.notes, *notes))


def _named(reference: Reference, path: Path, trusted: bool) -> ModelSpec:
    if _exists(reference.text):
        return _local(Path(reference.text).expanduser(), trusted)
    beside = path.parent / reference.text
    if _exists(str(beside)):
        spec = _local(beside, trusted)
        note = f"{reference.text} is found beside {path.name}; the framework looks in the directory it is started from"
        return dataclasses.replace(spec, notes=(*spec.notes, note))
    if entry := catalog.by_name(reference.text):
        raise UserError(
            f"{reference.text} is a name of tpscope's catalog, which no framework loads; write {entry.hub_ids[0]}"
        )
    return _hub(reference.text, reference.revision, trusted)


def _overridden(config: dict[str, Any], reference: Reference) -> tuple[dict[str, Any], list[str]]:
    present = {key: value for key, value in reference.merged.items() if key in config}
    wanted = {**present, **reference.overrides}
    changed = {key: value for key, value in wanted.items() if config.get(key, ...) != value}
    result = dict(config)
    for key, value in changed.items():
        old = config.get(key)
        result[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    notes = [f"the YAML sets {', '.join(changed)} over the published config"] if changed else []
    return result, notes


def _hub(text: str, revision: str | None, trusted: bool) -> ModelSpec:
    if entry := catalog.by_hub_id(text):
        spec = entry.spec()
        note = f"revision {revision} is asked for; the catalog's copy is used"
        return dataclasses.replace(spec, notes=(*spec.notes, note)) if revision else spec
    if text.endswith((".json", ".yml", ".yaml")) or text.startswith(("/", "./", "../", "~")):
        raise UserError(f"{text} does not exist; check the path")
    if not hub_cache.HUB_ID.match(text):
        raise UserError(f"{text[:80]!r} is no catalog name, path that exists or hub id; {catalog.closest(text)}")
    folder = hub_cache.snapshot(text, revision)
    if folder is not None and (folder / "config.json").exists():
        return _local(folder, trusted, name=text.rpartition("/")[2], source=f"Hugging Face cache {folder}")
    if "/" not in text:
        raise UserError(
            f"{text} is no catalog name, path that exists or model in the Hugging Face cache; {catalog.closest(text)}"
        )
    asked = f"{text} at revision {revision}" if revision else text
    near = catalog.near(text)
    instead = f", or take the like of it from the catalog: {', '.join(near)}" if near else ""
    raise UserError(
        f"{asked} is neither in the catalog nor in the Hugging Face cache {hub_cache.root()}, and nothing is "
        f"downloaded; run `hf download {text} config.json` or give a directory with its config.json{instead}"
    )


def _local(path: Path, trusted: bool, name: str = "", source: str = "") -> ModelSpec:
    file = path / "config.json" if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise UserError(f"{path} is a directory without config.json; {_hint(path)}")
    config = json_of(file)
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        raise UserError(
            f"{file} has no model_type, by which transformers picks the model class; "
            "give the config.json of a Hugging Face model, or add model_type to it"
        )
    code, note = remote_code(config, file, trusted)
    notes = (note,) if note else ()
    return _spec(config, name or file.resolve().parent.name, source or f"file {file}", "local", code, notes)


def _hint(path: Path) -> str:
    if (path / "adapter_config.json").exists():
        return "it holds a PEFT adapter: give the directory or hub id of its base model"
    if yamls := sorted(item.name for item in path.iterdir() if item.suffix in (".yml", ".yaml")):
        return f"name a file in it, such as {yamls[0]}"
    return "give the directory that a model was saved to"


def _spec(
    config: dict[str, Any], name: str, source: str, status: str, code: Path | None, notes: tuple[str, ...]
) -> ModelSpec:
    return ModelSpec(name, architecture_of(config), config["model_type"], config, source, status, code, notes)
