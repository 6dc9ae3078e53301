"""transformers' tensor-parallel engines, by what the installed version offers: each shards a model that has no weights
the way its loader does."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside.case import Case

Decided = dict[str, str]


@dataclass(frozen=True)
class Asked:
    """What `from_pretrained` is given: tp size, other mesh sizes, a plan of the user's, a mesh of the caller's."""

    tp: int
    fsdp: int = 1
    pp: int = 1
    plan: dict[str, str] | str = "auto"
    mesh: Any = None

    @property
    def distributed(self) -> bool:
        """True if transformers' loader is asked to distribute at all."""
        return self.tp > 1 or self.fsdp > 1 or self.pp > 1


class Slice:
    """A tensor with the interface of a tensor in a safetensors file, which is what the loaders cut."""

    _NAMES: ClassVar = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}

    def __init__(self, tensor: torch.Tensor):
        self._tensor = tensor

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._tensor[index]

    def get_shape(self) -> list[int]:
        """Global shape."""
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        """The dtype by the name that safetensors gives it."""
        return self._NAMES[self._tensor.dtype]


def engine() -> str:
    """`distributed-config` (5.16 and later), `loading` (5.0 to 5.15: the weight loader cuts with each style's own
    `shard_tensor`) or `hooks` (4.x)."""
    from transformers import PreTrainedModel

    if hasattr(PreTrainedModel, "maybe_distribute_model"):
        return "distributed-config"
    return "loading" if importlib.util.find_spec("transformers.core_model_loading") else "hooks"


def prepare(case: Case, cls: type, asked: Asked) -> tuple[Any, Any]:
    """Mesh and configuration as the loader makes them before it builds the model; nothing where nothing is asked."""
    if not asked.distributed:
        return None, asked.mesh
    if engine() == "distributed-config":
        return _prepare_config(cls, asked)
    module = importlib.import_module("transformers.integrations.tensor_parallel")
    if asked.mesh is not None:
        return None, asked.mesh["tp"] if asked.mesh.ndim > 1 else asked.mesh
    options: dict[str, Any] = {"tp_size": asked.tp}
    made = module.initialize_tensor_parallelism(asked.plan if isinstance(asked.plan, str) else "auto", **options)
    mesh = next(item for item in made if type(item).__name__ == "DeviceMesh")
    return None, mesh


def _prepare_config(cls: type, asked: Asked) -> tuple[Any, Any]:
    from transformers.distributed.configuration_utils import DistributedConfig

    known = set(inspect.signature(DistributedConfig).parameters)
    options: dict[str, Any] = {"tp_plan": asked.plan, "tp_size": asked.tp}
    if asked.mesh is None:
        data = "dp_shard_size" if "dp_shard_size" in known else "fsdp_size"
        options |= {data: asked.fsdp} if asked.fsdp > 1 else {}
        options |= {"pp_size": asked.pp} if asked.pp > 1 else {}
    config = DistributedConfig(**options)
    takes_mesh = "device_mesh" in inspect.signature(cls.prepare_distribute_model).parameters
    extra = {"device_mesh": asked.mesh} if takes_mesh and asked.mesh is not None else {}
    config, _, mesh = cls.prepare_distribute_model(config, device_map=None, **extra)
    return config, mesh


def apply(case: Case, model: nn.Module, config: Any, mesh: Any, asked: Asked) -> tuple[nn.Module, Decided]:
    """Shard a model with the engine that the installed transformers has. Returns it and the pattern that decided
    about each parameter, where the loader's own matching says so."""
    if not asked.distributed:
        model.tie_weights()
        return model, {}
    kind = engine()
    if kind == "distributed-config":
        model = type(model).maybe_distribute_model(model, config, mesh)
        model.tie_weights()
        return model, {}
    module = importlib.import_module("transformers.integrations.tensor_parallel")
    options = {
        "tp_plan": asked.plan if isinstance(asked.plan, dict) else None, "distributed_config": None,
        "device_mesh": mesh, "tp_size": asked.tp,
    }  # fmt: skip
    known = inspect.signature(module.distribute_model).parameters
    model = module.distribute_model(model, **{name: value for name, value in options.items() if name in known})
    if kind == "loading":
        return model, _shard_loading(model, module, mesh)
    _shard_hooked(model, module, mesh)
    return model, {}


def _shard_hooked(model: nn.Module, module: Any, mesh: Any) -> None:
    for name, parameter in list(model.named_parameters()):
        module.shard_and_distribute_module(
            model, Slice(parameter.detach()), parameter, name, parameter.dtype, False, mesh.get_local_rank(), mesh
        )
    model.tie_weights()


def _shard_loading(model: nn.Module, module: Any, mesh: Any) -> Decided:
    """The loader of 5.0 to 5.15: the pattern that its alternation finds decides, that style's `shard_tensor` cuts."""
    plan = dict(model.tp_plan or {})
    if not plan:
        return {}
    find = _matcher(plan)
    decided: Decided = {}
    for name, parameter in list(model.named_parameters()):
        pattern = find(name)
        if pattern is None:
            continue
        decided[name] = pattern
        style = module.ALL_PARALLEL_STYLES[plan[pattern]].__class__
        layer = style(device_mesh=mesh, rank=mesh.get_local_rank(), empty_param=parameter.detach().clone())
        owner, _, leaf = name.rpartition(".")
        local = layer.shard_tensor(
            Slice(parameter.detach()), tensor_idx=None, device=parameter.device, dtype=parameter.dtype
        )
        target = model.get_submodule(owner)
        local = local.contiguous()
        if getattr(layer, "use_dtensor", False):
            shape, stride = parameter.shape, parameter.stride()
            local = DTensor.from_local(local, mesh, layer.shard, run_check=False, shape=shape, stride=stride)
        setattr(target, leaf, nn.Parameter(local, requires_grad=parameter.requires_grad))
        if hasattr(layer, "update_module_attributes"):
            layer.update_module_attributes(target)
    model.tie_weights()
    return decided


def _matcher(plan: dict[str, str]) -> Callable[[str], str | None]:
    loading = importlib.import_module("transformers.core_model_loading")
    alternation, groups, _ = loading.build_glob_alternation(list(plan))

    def find(name: str) -> str | None:
        match = alternation.search(name)
        return groups[match.lastgroup] if match else None

    return find


def build(folder: str, device: str, remote: bool, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A causal LM of a config, as `AutoModelForCausalLM` makes it, in fp32 on a device, with PEFT not yet applied."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=remote)
    extra = {"trust_remote_code": True} if remote else {}
    with torch.device(device), _untied():
        return AutoModelForCausalLM.from_config(config, torch_dtype=dtype, **extra)


def _untied() -> contextlib.AbstractContextManager[Any]:
    """The loader of transformers 5 builds its model untied and ties it when it is sharded and filled."""
    name = "transformers.initialization"
    if importlib.util.find_spec(name) is None:
        return contextlib.nullcontext()
    return getattr(importlib.import_module(name), "no_tie_weights", contextlib.nullcontext)()


def tied(model: nn.Module) -> bool:
    """True if the configuration ties the output head to the embedding."""
    return bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
