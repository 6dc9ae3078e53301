"""FSDP2 and HSDP around a parallelized model: what tensor parallelism left to a rank is cut over its data ranks."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard as wrap
from torch.utils.data import DistributedSampler

from tpscope.engine.regions import outermost_lists


def fully_shard(model: nn.Module, mesh: DeviceMesh, **options: Any) -> nn.Module:
    """PyTorch's `fully_shard` on every layer and on the rest, over the data axes of a mesh from `build_mesh`.

    Weights are cut over dp_shard and cp, and copied over dp_replicate (HSDP). Gradients are averaged over data ranks,
    as PyTorch does it. `options` are PyTorch's (`mp_policy`, `reshard_after_forward`, ...). Call it on what is trained
    (the PeftModel), after weights and adapters are there and before the optimizer is made. Without data ranks it does
    nothing.
    """
    if mesh["dp_cp"].size() == 1:
        return model
    over = mesh["dp_replicate", "dp_shard_cp"] if mesh["dp_replicate"].size() > 1 else mesh["dp_shard_cp"]
    for name in outermost_lists(model):
        for layer in model.get_submodule(name).children():
            wrap(layer, mesh=over, **options)
    wrap(model, mesh=over, **options)
    return model


def data_sampler(dataset: Any, mesh: DeviceMesh, **options: Any) -> DistributedSampler[Any]:
    """PyTorch's sampler over the data ranks of a mesh: ranks that share a sample's work are given the same ones."""
    data = mesh["dp"]
    return DistributedSampler(dataset, num_replicas=data.size(), rank=data.get_local_rank(), **options)
