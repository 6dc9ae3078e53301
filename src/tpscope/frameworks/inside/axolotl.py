"""Axolotl: its refusals, its layout, accelerate's mesh; then transformers' plan and engine, PEFT and the Trainer."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tpscope.frameworks.inside import transformers as hf
from tpscope.frameworks.inside import world
from tpscope.frameworks.inside.case import Case, Refused
from tpscope.frameworks.inside.hf_engine import Asked
from tpscope.frameworks.inside.source import condition, function, source_of
from tpscope.frameworks.inside.trace import Trail, cite
from tpscope.language.answer import Failure
from tpscope.language.layout import Layout
from tpscope.language.verdict import Status

PARTS = ("axolotl/utils/distributed.py", "axolotl/loaders/", "accelerate/parallelism_config.py")


def preload() -> None:
    """Import the modules that every case uses."""
    os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
    hf.preload()
    importlib.import_module("axolotl.utils.distributed")
    importlib.import_module("axolotl.loaders.utils")


def answer(case: Case) -> None:
    """Fill the answer of one case."""
    layout = case.request.layout
    _no_key(case, layout)
    world.start(layout.world)
    hf.know(case)
    cfg = config_of(case, layout)
    trail = Trail(case.roots, PARTS)
    with case.during("refusals"), trail.on():
        refusals(case, cfg)
    with case.during("layout"), trail.on():
        mesh = mesh_of(case, cfg)
    if layout.sequence_parallel:
        case.answer.ignored.append(_sequence_parallel(case))
    loader = SimpleNamespace(cfg=cfg, model_kwargs={}, device_mesh=mesh, model=None)
    path = source_of("axolotl.loaders.model")
    with trail.on():
        exec(condition(path, "_build_model", 'self.model_kwargs["tp_plan"]'), {"self": loader})
    case.shim("ModelLoader is a namespace with the attributes that its tensor-parallel statements read")
    given = loader.model_kwargs
    asked = Asked(given["tp_size"], mesh=given["device_mesh"]) if layout.tp > 1 else Asked(1, mesh=mesh)
    case.shim("transformers' Trainer stands for AxolotlTrainer, its subclass")

    hf.shard(case, asked, "accelerate.ParallelismConfig.build_device_mesh", before_training(case, layout))
    case.answer.selection.trail = trail.lines + case.answer.selection.trail


def before_training(case: Case, layout: Layout) -> Callable[[Any, Any], None]:
    """What the loader and the trainer set up around a loaded model, by their own statements."""
    path = source_of("axolotl.loaders.model")

    def prepare(model: Any, small_mesh: Any) -> None:
        small = config_of(case, Layout(tp=layout.tp))
        holder = SimpleNamespace(cfg=small, model=model, model_kwargs={"device_mesh": small_mesh})
        exec(condition(path, "_build_model", "self.model._tp_size ="), {"self": holder})
        names: dict[str, Any] = {"os": os}
        exec(function(source_of("axolotl.utils.trainer"), "setup_parallelism_envs"), names)
        names["setup_parallelism_envs"](small)

    return prepare


def config_of(case: Case, layout: Layout) -> Any:
    """The config as Axolotl holds it, with the keys that decide the layout."""
    from axolotl.utils.dict import DictDefault

    keys: dict[str, Any] = {
        "base_model": str(case.folder), "tensor_parallel_size": layout.tp, "context_parallel_size": layout.cp,
        "trust_remote_code": case.request.remote_code is not None,
    }  # fmt: skip
    if layout.dp_shard > 1:
        keys |= {"dp_shard_size": layout.dp_shard, "fsdp_version": 2, "fsdp_config": {"reshard_after_forward": True}}
    if layout.dp_replicate > 1:
        keys["dp_replicate_size"] = layout.dp_replicate
    if case.request.lora is not None:
        keys |= {"adapter": "lora", "lora_r": case.request.lora.r, "lora_alpha": case.request.lora.alpha}
    training = case.request.training
    own = dict(training.get("settings", {})) if training.get("kind") == "axolotl" else {}
    if own.pop("expert_parallel_size", None) is not None:
        case.shim("expert_parallel_size of the file is left out: a layout has no expert axis")
    return DictDefault({**own, **keys})


def _no_key(case: Case, layout: Layout) -> None:
    """What Axolotl has no key for is unsupported: said before anything runs, with the schema as the witness."""
    if layout.pp > 1:
        schemas = "axolotl/utils/schemas"
        keys = ("pipeline_parallel", "pp_size")
        files = [file for root in case.roots for file in sorted(Path(root, schemas).glob("*.py"))]
        if not any(key in file.read_text(encoding="utf-8") for key in keys for file in files):
            message = (
                f"Axolotl's configuration has no key for pipeline parallelism (none of {', '.join(keys)} stands in the "
                f"{len(files)} files of {schemas})"
            )
            raise Refused(Status.UNSUPPORTED, Failure("NoSuchSetting", message, "layout"))
    if case.request.custom_plan is not None:
        where = cite(
            case.roots, "axolotl/loaders/model.py", 'self.model_kwargs["tp_plan"] = "auto"', "ModelLoader._build_model"
        )
        message = 'Axolotl passes tp_plan="auto" to transformers; no key of its configuration replaces the plan'
        raise Refused(Status.UNSUPPORTED, Failure("NoSuchSetting", message, "layout", where))


def refusals(case: Case, cfg: Any) -> None:
    """Axolotl's own check of the model's configuration."""
    loaders = importlib.import_module("axolotl.loaders.utils")
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(case.folder), trust_remote_code=case.request.remote_code is not None)
    loaders.check_model_config(cfg, config)


def mesh_of(case: Case, cfg: Any) -> Any:
    """The mesh that Axolotl has accelerate build. Only the device name changes."""
    distributed = importlib.import_module("axolotl.utils.distributed")
    from accelerate.parallelism_config import ParallelismConfig

    case.shim('ParallelismConfig.build_device_mesh("cuda") is given "cpu"')
    build = ParallelismConfig.build_device_mesh
    ParallelismConfig.build_device_mesh = lambda self, device_type: build(self, "cpu")
    distributed.get_world_size = lambda: case.request.layout.world
    case.shim("axolotl.utils.distributed.get_world_size answers the layout's world: there is no PartialState here")
    try:
        return distributed.build_parallelism_config(cfg)[1]
    finally:
        ParallelismConfig.build_device_mesh = build


def _sequence_parallel(case: Case) -> dict[str, str]:
    line = cite(case.roots, "axolotl/utils/schemas/config.py", "context_parallel_size", "AxolotlInputConfig")
    where = f" ({line.path}:{line.line})" if line else ""
    return {
        "setting": "sequence_parallel",
        "what": "sequence parallel was asked for; Axolotl has no setting that shards activations of the tp ranks over "
        f"the sequence (its sequence parallelism is context parallelism{where})",
    }
