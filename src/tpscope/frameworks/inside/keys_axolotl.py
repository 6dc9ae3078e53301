"""Axolotl's own reading of a YAML: the keys of its schema, its validation, and its layout of the ranks."""

from __future__ import annotations

import ast
import copy
import importlib
import re
import typing
from pathlib import Path
from typing import Any

import torch

from tpscope.frameworks.inside import world
from tpscope.frameworks.inside.keys import Reading, near, sizes_of
from tpscope.frameworks.inside.trace import cite, failure
from tpscope.language.answer import TrailLine
from tpscope.language.keys import Complaint

_SCHEMAS = "axolotl/utils/schemas"


def read(reading: Reading) -> None:
    """Validate the file as `axolotl train` does before it loads a model, then lay the ranks out."""
    from axolotl.utils.dict import DictDefault

    config = importlib.import_module("axolotl.utils.config")
    cfg = DictDefault(copy.deepcopy(reading.request.data))
    schema = _schema(reading, config, cfg)
    _unknown(reading, schema)
    words = _constants(reading)
    _nested(reading, schema, reading.request.data, "", words)
    capabilities = {
        "bf16": True, "fp8": True, "tf32": True, "n_gpu": reading.request.world, "compute_capability": "sm_90",
    }  # fmt: skip
    reading.shim("validated as on GPUs of compute capability 9.0 that have bf16, fp8 and tf32")
    version = {"torch_version": torch.__version__.split("+")[0]}
    valid = cfg
    try:
        valid = config.validate_config(cfg, capabilities=capabilities, env_capabilities=version)
    except Exception as error:  # noqa: BLE001 - what the schema raises is the answer
        _refused(reading, error)
    _warned(reading)
    _layout(reading, valid)


def _schema(reading: Reading, config: Any, cfg: Any) -> Any:
    """The schema class with the arguments of the plugins that the file loads and that can be imported here."""
    plain = importlib.import_module(f"{_SCHEMAS.replace('/', '.')}.config").AxolotlInputConfig
    wanted, usable = list(cfg.get("plugins") or []), []
    manager = importlib.import_module("axolotl.integrations.base").PluginManager.get_instance() if wanted else None
    for plugin in wanted:
        with reading.step(Complaint.INVALID, "plugins"):
            # The manager only logs a plugin that cannot be imported: imported here first, so that the reason is kept.
            getattr(importlib.import_module(plugin.rpartition(".")[0]), plugin.rpartition(".")[2])
            manager.register(plugin)
            usable.append(plugin)
    cfg["plugins"] = usable or None
    if usable:
        return importlib.import_module("axolotl.integrations.config").merge_input_args()[1]
    return plain


def _names(schema: Any) -> dict[str, str]:
    """Every key that a pydantic class reads, aliases included, with the field's own name."""
    found: dict[str, str] = {}
    for name, info in schema.model_fields.items():
        found[name] = name
        for alias in (info.alias, info.validation_alias):
            for item in getattr(alias, "choices", [alias]):
                if isinstance(item, str):
                    found[item] = name
    return found


def _unknown(reading: Reading, schema: Any) -> None:
    names = _names(schema)
    reading.answer.known = len(names)
    constants = _constants(reading)
    plugins = _plugin_keys(reading)
    for key in reading.request.data:
        if key in names:
            continue
        if key in plugins:
            path, name = plugins[key]
            loaded = any(name in str(item) for item in reading.request.data.get("plugins") or [])
            if not loaded:
                message = f"{key} is a key of the plugin in {path}, which the file does not load, so nothing reads it"
                reading.add(Complaint.UNKNOWN, key, message, where=cite(reading.roots, path, f"{key}:"))
            continue
        # A validator may take a key that is no field: it then stands in the schemas as a string.
        if key in constants:
            continue
        closest = near(key, names)
        where = _field(reading, closest[0]) if closest else _field(reading, "", "class AxolotlInputConfig")
        message = f"{key} is no key of Axolotl's schema: validation drops it and nothing reads it"
        reading.add(Complaint.UNKNOWN, key, message, closest=closest, where=where)


def _nested(reading: Reading, schema: Any, data: dict[str, Any], prefix: str, words: set[str]) -> None:
    """Unknown keys of sections whose schema is a class, or one of several classes."""
    for name, info in schema.model_fields.items():
        value = data.get(name)
        parts = value if isinstance(value, list) else [value]
        models, open_ = _models(info.annotation)
        for index, part in enumerate(parts):
            if not isinstance(part, dict) or not models or open_:
                continue
            place = f"{prefix}{name}." + (f"{index}." if isinstance(value, list) else "")
            known = {key for model in models for key in _names(model)}
            for key in part:
                bare = key.removeprefix(f"{name.split('_')[0]}_")
                if key not in known and bare not in known and key not in words:
                    closest = near(key, known) or near(bare, known)
                    where = _field(reading, closest[0] if closest else "", f"class {models[0].__name__}")
                    message = f"{key} is no key of {models[0].__name__}: nothing reads it"
                    reading.add(Complaint.UNKNOWN, f"{place}{key}", message, closest=closest, where=where)
            for model in models:
                _nested(reading, model, part, place, words | known)


def _models(annotation: Any) -> tuple[list[Any], bool]:
    """Pydantic classes in an annotation, and whether it also takes any mapping."""
    if hasattr(annotation, "model_fields"):
        # A class that keeps what it does not know hands it on.
        return [annotation], getattr(annotation, "model_config", {}).get("extra") == "allow"
    if annotation is dict or typing.get_origin(annotation) is dict:
        return [], True
    models, open_ = [], False
    for part in typing.get_args(annotation):
        found, anything = _models(part)
        models += found
        open_ = open_ or anything
    return models, open_


def _constants(reading: Reading) -> set[str]:
    """Every string of the schemas' source."""
    found: set[str] = set()
    for root in reading.roots:
        for file in Path(root, _SCHEMAS).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found |= {
                node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    return found


def _plugin_keys(reading: Reading) -> dict[str, tuple[str, str]]:
    """Keys that plugins add to the schema: key to the file that declares it and the plugin's folder."""
    found: dict[str, tuple[str, str]] = {}
    for root in reading.roots:
        for file in Path(root, "axolotl/integrations").glob("*/args.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    found.setdefault(node.target.id, (str(file.relative_to(root)), file.parent.name))
    return found


def _field(reading: Reading, name: str, otherwise: str = "") -> TrailLine | None:
    """The line of the schemas that declares a field."""
    for root in reading.roots:
        for file in sorted(Path(root, _SCHEMAS).rglob("*.py")):
            path = str(file.relative_to(root))
            for fragment in ([f"    {name}:"] if name else []) + ([otherwise] if otherwise else []):
                if found := cite([root], path, fragment):
                    return found
    return None


def _refused(reading: Reading, error: BaseException) -> None:
    """A validation error, one complaint for each part of it, in Axolotl's own words."""
    parts = error.errors() if hasattr(error, "errors") else []
    if not parts:
        reading.raised(error, Complaint.INVALID, _mentioned(reading, str(error)))
        return
    for part in parts:
        location = [str(item) for item in part["loc"]]
        key = ".".join(item for item in location if not item.startswith(("function-", "lax-", "union")))
        message = part["msg"].removeprefix("Value error, ")
        cause = (part.get("ctx") or {}).get("error")
        where = failure(cause, "validation", reading.roots)[0].where if isinstance(cause, BaseException) else None
        if where is None and location:
            where = _field(reading, location[0])
        if location and part["type"] != "missing" and not isinstance(cause, BaseException):
            message = f"{message}, and the file has {part.get('input')!r}"
        reading.add(Complaint.INVALID, key or _mentioned(reading, message), message, raises=True, where=where)


def _mentioned(reading: Reading, message: str) -> str:
    """The key of the file that a message speaks of: the one that stands first in it."""
    places = {
        str(key): found.start()
        for key in reading.request.data
        if (found := re.search(rf"(?<![\w.]){re.escape(str(key))}(?!\w)", message))
    }
    return min(places, key=lambda key: places[key]) if places else ""


def _warned(reading: Reading) -> None:
    """Warnings of the schema's validators."""
    for line in reading.answer.log:
        if line.level in ("WARNING", "ERROR") and line.logger.startswith("axolotl"):
            key = _mentioned(reading, line.message)
            fragment = line.message.split(".")[0][:40]
            where = None
            for root in reading.roots:
                for file in sorted(Path(root, _SCHEMAS).rglob("*.py")):
                    where = where or cite([root], str(file.relative_to(root)), fragment)
            reading.add(Complaint.WARNED, key, line.message, where=where)


def _layout(reading: Reading, cfg: Any) -> None:
    distributed = importlib.import_module("axolotl.utils.distributed")
    from accelerate.parallelism_config import ParallelismConfig

    size = reading.request.world
    reading.shim('ParallelismConfig.build_device_mesh("cuda") is given "cpu"')
    reading.shim("axolotl.utils.distributed.get_world_size answers the world that was asked for")
    build = ParallelismConfig.build_device_mesh
    ParallelismConfig.build_device_mesh = lambda self, device_type: build(self, "cpu")
    distributed.get_world_size = lambda: size
    keys = [key for key in ("tensor_parallel_size", "context_parallel_size", "dp_shard_size", "dp_replicate_size")
            if reading.request.data.get(key)]  # fmt: skip
    world.start(size)
    try:
        mesh = distributed.build_parallelism_config(cfg)[1]
        reading.answer.mesh = sizes_of(mesh) if mesh is not None else {}
    except Exception as error:  # noqa: BLE001 - whatever the framework raises is the answer to this step
        reading.raised(error, Complaint.LAYOUT, _mentioned(reading, str(error)) or (keys[0] if keys else ""))
