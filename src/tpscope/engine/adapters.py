"""PEFT's LoRA on a parallelized model: adapters are cut as the weights that they stand beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from tpscope.engine.collectives import Axis
from tpscope.engine.held import Held, axis_of, held, note, parts, state_of
from tpscope.engine.hooks import move_borders
from tpscope.engine.slices import take
from tpscope.engine.streams import fork_adapter
from tpscope.errors import UserError
from tpscope.language.sharding import Cut

_FILE = "adapter_model.safetensors"


def add_adapters(model: nn.Module, config: Any) -> nn.Module:
    """`peft.get_peft_model` of a parallelized model: adapters start as they do unsharded, then are cut.

    `config` is a `peft.LoraConfig` for Linear layers. Returns the PeftModel. Call it after the weights were loaded and
    before FSDP and the optimizer. Raises UserError for what is not supported.
    """
    axis = axis_of(model)
    _refuse(model, config)
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    local = {module: _sizes(module, whole=False) for module in model.modules() if isinstance(module, nn.Linear)}
    try:
        for module in local:
            module.in_features, module.out_features = _sizes(module, whole=True)
        made: nn.Module = get_peft_model(model, config)  # type: ignore[arg-type]
    finally:
        for module, (inner, outer) in local.items():
            module.in_features, module.out_features = inner, outer
    layers = [(name, layer) for name, layer in made.named_modules() if isinstance(layer, LoraLayer)]
    try:
        for name, layer in layers:
            _refuse_layer(name, layer)
    except UserError:
        made.unload()  # type: ignore[operator]
        raise
    state = state_of(made)
    for _, layer in layers:
        _cut_adapter(layer, axis, state)
    if state is not None:
        state.partial = None
    return made


def load_adapters(model: nn.Module, folder: Path | str) -> nn.Module:
    """Adapters that PEFT (or `save_pretrained` here) wrote, onto a parallelized model. Returns the PeftModel."""
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    made = add_adapters(model, config)
    fill_adapters(made, folder)
    return made


def fill_adapters(made: nn.Module, folder: Path | str) -> None:
    """Adapters of a file into those that a model has. Raises UserError where one is missing."""
    found = load_file(Path(folder) / _FILE)
    axis = axis_of(made)
    for part in parts(made):
        name = part.name.replace(".default.", ".")
        if ".lora_" not in part.name:
            continue
        if name not in found:
            raise UserError(f"{folder}: {name} is missing in {_FILE}; load adapters of this model")
        whole = found[name]
        with torch.no_grad():
            part.tensor.copy_(whole if part.held.cut is None else take(whole, part.held.cut, axis.rank, axis.size))


def _refuse(model: nn.Module, config: Any) -> None:
    asked = {
        "use_dora": getattr(config, "use_dora", False),
        "lora_bias": getattr(config, "lora_bias", False),
        "modules_to_save": getattr(config, "modules_to_save", None),
        "target_parameters": getattr(config, "target_parameters", None),
        f"init_lora_weights={config.init_lora_weights!r}": config.init_lora_weights not in (True, False, "gaussian"),
    }
    for name, value in asked.items():
        if value:
            raise UserError(f"LoraConfig: {name} is not supported on a parallelized model; leave it out")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UserError("the model is on meta; call tpscope.load_pretrained before adapters are added")


def _sizes(module: nn.Linear, whole: bool) -> tuple[int, int]:
    """(inputs, outputs) of a Linear, on this rank or unsharded."""
    outputs, inputs = module.weight.shape
    cut = held(module, "weight").cut if whole else None
    if cut is not None:
        outputs, inputs = (cut.size, inputs) if cut.dim == 0 else (outputs, cut.size)
    return inputs, outputs


def _refuse_layer(name: str, layer: Any) -> None:
    base = layer.get_base_layer()
    if type(base) is not nn.Linear or (getattr(base, "bias", None) is not None and held(base, "bias").summed):
        raise UserError(
            f"LoraConfig: {name} is a {type(base).__name__}, which gets no adapters on a parallelized model; choose "
            "target_modules among Linear layers that are not the head"
        )


def _cut_adapter(layer: Any, axis: Axis, state: Any) -> None:
    base = layer.get_base_layer()
    of_base = held(base, "weight")
    layer.in_features, layer.out_features = _sizes(base, whole=False)
    move_borders(base, layer)
    for adapter in layer.lora_A:
        first, second = layer.lora_A[adapter], layer.lora_B[adapter]
        column = of_base.cut is not None and of_base.cut.dim == 0
        row = of_base.cut is not None and of_base.cut.dim == 1
        _cut_weight(first, of_base.cut if row else None, of_base.summed or column, axis)
        _cut_weight(second, of_base.cut if column else None, of_base.summed or row, axis)
        if state is not None:
            fork_adapter(layer.lora_dropout[adapter], state.streams, sharded=row)


def _cut_weight(module: nn.Linear, cut: Cut | None, summed: bool, axis: Axis) -> None:
    """The first rank's numbers on every rank, cut."""
    with torch.no_grad():
        dist.broadcast(module.weight, 0)
        if cut is not None:
            trained = module.weight.requires_grad
            module.weight = nn.Parameter(take(module.weight, cut, axis.rank, axis.size), requires_grad=trained)
    module.out_features, module.in_features = module.weight.shape
    note(module, "weight", Held(cut, summed))
