"""Axolotl's data-parallel axes: FSDP2 as its own `fsdp2_prepare_model` wraps a model, on accelerate's mesh."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from tpscope.frameworks.inside import axolotl
from tpscope.frameworks.inside.case import Case, Refused
from tpscope.frameworks.inside.hf_engine import Asked
from tpscope.frameworks.inside.source import function, source_of
from tpscope.language.answer import Failure
from tpscope.language.verdict import Status

_PREPARE = "axolotl.monkeypatch.accelerate.fsdp2"
Prepare = Callable[[nn.Module], nn.Module]


def asked(case: Case, recompute: bool) -> tuple[Asked, Any, Prepare, list[str]]:
    """What transformers' loader is asked, the mesh, what wraps the loaded model, and what is assumed."""
    layout = case.request.layout
    if layout.dp_shard == 1:
        message = (
            "dp_replicate without dp_shard is DistributedDataParallel, whose reducer issues its all-reduces from C++, "
            "below what a trace sees"
        )
        raise Refused(Status.UNSUPPORTED, Failure("NotTraced", message, "model"))
    cfg = axolotl.config_of(case, layout)
    sizes, mesh = _sizes_and_mesh(case, cfg)
    wants = Asked(layout.tp, mesh=mesh) if layout.tp > 1 else Asked(1, mesh=mesh)

    def prepare(model: nn.Module) -> nn.Module:
        plugin = _plugin(case, cfg, model, recompute)
        # A mesh is made of numbers of its own, which are no tensors of the model.
        with unset_fake_temporarily():
            names = tuple(sizes.fsdp_dim_names)
            axes = {names: mesh[names]}
        state = SimpleNamespace(fsdp_plugin=plugin, device_mesh=_Axes(mesh, axes), parallelism_config=sizes)
        accelerator = SimpleNamespace(
            state=state, is_main_process=True, device="cpu", mixed_precision="bf16", parallelism_config=sizes,
            torch_device_mesh=state.device_mesh,
        )  # fmt: skip
        wrapped: nn.Module = importlib.import_module(_PREPARE).fsdp2_prepare_model(accelerator, model)
        return wrapped

    case.shim("accelerate's Accelerator is a namespace with what fsdp2_prepare_model reads of it")
    return wants, mesh, prepare, [
        "FSDP2 by Axolotl's fsdp2_prepare_model: every decoder layer, then the model "
        "(auto_wrap_policy TRANSFORMER_BASED_WRAP, reshard_after_forward true), bf16: true"
    ]  # fmt: skip


def _sizes_and_mesh(case: Case, cfg: Any) -> tuple[Any, Any]:
    """accelerate's ParallelismConfig as Axolotl fills it, and the mesh that it builds."""
    kind = importlib.import_module("accelerate.parallelism_config").ParallelismConfig
    build, made = kind.build_device_mesh, []

    def kept(self: Any, device: str) -> Any:
        made.append(self)
        return build(self, device)

    kind.build_device_mesh = kept
    try:
        mesh = axolotl.mesh_of(case, cfg)
        return made[0], mesh
    finally:
        kind.build_device_mesh = build


class _Axes:
    """A mesh whose parts were made before fake tensors were on."""

    def __init__(self, mesh: Any, parts: dict[tuple[str, ...], Any]):
        self.mesh_dim_names = mesh.mesh_dim_names
        self._parts = parts

    def __getitem__(self, names: tuple[str, ...]) -> Any:
        return self._parts[names]


def _plugin(case: Case, cfg: Any, model: nn.Module, recompute: bool) -> Any:
    """Accelerate's plugin from the environment that Axolotl sets of its keys, in bf16 as `AcceleratorState` has it."""
    layers = ",".join(sorted(getattr(model, "_no_split_modules", None) or ()))
    keys = {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "transformer_layer_cls_to_wrap": layers}
    for key, value in keys.items():
        if cfg.fsdp_config.get(key) is None:
            cfg.fsdp_config[key] = value
    if recompute:
        cfg.fsdp_config["activation_checkpointing"] = True
    names: dict[str, Any] = {"os": os}
    exec(function(source_of("axolotl.utils.trainer"), "setup_fsdp_envs"), names)
    names["setup_fsdp_envs"](cfg)
    plugin = importlib.import_module("accelerate.utils").FullyShardedDataParallelPlugin()
    plugin.set_mixed_precision("bf16")
    return plugin
