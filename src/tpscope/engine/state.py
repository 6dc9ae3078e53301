"""A parallelized model as DTensors in the sizes of the whole model, and checkpoints that any layout can load."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.distributed.tensor._shards_wrapper import LocalShardsWrapper

from tpscope.engine.collectives import Axis
from tpscope.engine.gradients import pieces, rows
from tpscope.engine.held import Part, local, parts, state_of
from tpscope.errors import UserError

_STEP = re.compile(r"step-(\d{8})")


def state_dict(model: nn.Module, trainable: bool = False) -> dict[str, DTensor]:
    """Parameters by name, as DTensors over the model's tp mesh in the whole model's sizes; they share its memory.

    Where an even `Shard` cannot say what a rank holds (fused weights, KV heads on several ranks, odd vocabularies,
    FSDP), the local tensor is a list of shards with their offsets, which torch.distributed.checkpoint reads and writes.
    `trainable`: only those that are trained (adapters). A rank that holds nothing of a parameter leaves it out.
    """
    axis, mesh = _place(model)
    found = {}
    for part in parts(model):
        if trainable and not part.tensor.requires_grad:
            continue
        made = _global(part, part.tensor.detach(), axis, mesh)
        if made is not None:
            found[part.name] = made
    return found


def _place(model: nn.Module) -> tuple[Axis, DeviceMesh]:
    state = state_of(model)
    if state is None or state.mesh is None:
        raise UserError(f"{type(model).__name__} was not parallelized over a mesh; call tpscope.parallelize first")
    return state.axis, state.mesh


def whole_shape(part: Part) -> torch.Size:
    """The parameter's shape in the unsharded model."""
    shape = list(part.tensor.shape)
    if part.held.cut is not None:
        shape[part.held.cut.dim] = part.held.cut.size
    return torch.Size(shape)


def _global(part: Part, tensor: torch.Tensor, axis: Axis, mesh: DeviceMesh) -> DTensor | None:
    """`tensor`, the parameter or one that is held as it is (a state of the optimizer), in the whole sizes."""
    cut, mine = part.held.cut, local(tensor)
    if not mine.numel():
        return None
    shape = whole_shape(part)
    if not isinstance(tensor, DTensor):
        if cut is None:
            return _made(mine, shape, mesh, Replicate())
        if len(cut.segments) == 1 and not cut.overlaps and cut.size % axis.size == 0:
            return _made(mine, shape, mesh, Shard(cut.dim))
    shards, offsets = [], []
    first = rows(part.tensor)[0] if cut is not None and cut.dim else 0
    for place, there, length, _ in pieces(part, axis):
        dim = cut.dim if cut is not None else 0
        offset = [0] * mine.dim()
        offset[0] = first
        if mine.dim():
            offset[dim] = there
        shards.append(mine.narrow(dim, place, length) if mine.dim() else mine)
        offsets.append(tuple(offset))
    return _made(LocalShardsWrapper(shards, offsets), shape, mesh, Replicate(), mine.dtype)


def _made(
    held: torch.Tensor, shape: torch.Size, mesh: DeviceMesh, placement: Any, dtype: torch.dtype | None = None
) -> DTensor:
    stride = torch.empty(shape, device="meta").stride()
    spec = DTensorSpec(mesh, (placement,), TensorMeta(shape, stride, dtype or held.dtype))
    return DTensor(held, spec, requires_grad=False)


def _optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state by parameter name, tensors as they lie in the optimizer."""
    return get_optimizer_state_dict(model, optimizer)


def _global_optimizer(model: nn.Module, found: dict[str, Any]) -> dict[str, Any]:
    axis, mesh = _place(model)
    known = {part.name: part for part in parts(model)}
    state: dict[str, dict[str, Any]] = {}
    for name, items in found["state"].items():
        part = known[name]
        state[name] = {}
        for key, item in items.items():
            alike = isinstance(item, torch.Tensor) and item.shape == part.tensor.shape and item.dim() > 0
            made = _global(part, item, axis, mesh) if alike else item
            if made is not None:
                state[name][key] = made
    groups = [{key: item for key, item in group.items() if key != "params"} for group in found["param_groups"]]
    return {"state": state, "groups": groups}


def save_checkpoint(
    folder: Path | str, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, **more: Any
) -> Path:
    """Write `folder/step-N`: the model, its optimizer and `more`. It has that name only when it is whole.

    With adapters only what is trained is written.
    """
    final = Path(folder) / f"step-{step:08d}"
    partial = final.with_name(f".{final.name}.partial")
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    held = {
        "model": state_dict(model, _has_frozen(model)),
        "optimizer": _global_optimizer(model, _optimizer_state(model, optimizer)),
        "more": {"step": step, **more},
    }
    dcp.save(held, checkpoint_id=partial)
    dist.barrier()
    if dist.get_rank() == 0:
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    dist.barrier()
    return final


def last_checkpoint(folder: Path | str) -> Path | None:
    """The newest whole checkpoint of a folder, None if there is none. What a killed save left is not one."""
    found = [path for path in Path(folder).glob("step-*") if _STEP.fullmatch(path.name)]
    return max(found, key=lambda path: path.name, default=None)


def save_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The optimizer alone, so that any layout can load it."""
    dcp.save({"optimizer": _global_optimizer(model, _optimizer_state(model, optimizer))}, checkpoint_id=folder)


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load what `save_optimizer` wrote."""
    found = _optimizer_state(model, optimizer)
    held = {"optimizer": _global_optimizer(model, found)}
    _read(folder, held)
    _take_up(model, optimizer, found, held)


def load_checkpoint(
    path: Path | str, model: nn.Module, optimizer: torch.optim.Optimizer, **more: Any
) -> dict[str, Any]:
    """Load what `save_checkpoint` wrote, in any layout. Returns the step, and `more` as it was saved."""
    found = _optimizer_state(model, optimizer)
    held = {
        "model": state_dict(model, _has_frozen(model)),
        "optimizer": _global_optimizer(model, found),
        "more": {"step": 0, **more},
    }
    _read(Path(path), held)
    _take_up(model, optimizer, found, held)
    more_read: dict[str, Any] = held["more"]
    return more_read


def _read(path: Path, held: dict[str, Any]) -> None:
    try:
        dcp.load(held, checkpoint_id=path)
    except dcp.CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise UserError(
            f"{path} does not hold this model and optimizer: {first}; load it with the same model"
        ) from error


def _take_up(model: nn.Module, optimizer: torch.optim.Optimizer, found: dict[str, Any], held: dict[str, Any]) -> None:
    """Give an optimizer what was read of it, in place."""
    for group, read in zip(found["param_groups"], held["optimizer"]["groups"], strict=True):
        group |= read
    set_optimizer_state_dict(model, optimizer, found)


def _has_frozen(model: nn.Module) -> bool:
    return any(not parameter.requires_grad for parameter in model.parameters())
