"""The device mesh of a layout: five axes, and those that FSDP and the loss need beside them."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from tpscope.errors import UserError
from tpscope.language.layout import AXES, Layout

# Flattened axes by name: over which batches differ, over which FSDP cuts weights, over which losses are averaged.
FLATTENED = {
    "dp": ("dp_replicate", "dp_shard"),
    "dp_shard_cp": ("dp_shard", "cp"),
    "dp_cp": ("dp_replicate", "dp_shard", "cp"),
}


def build_mesh(layout: Layout, device: str | None = None) -> DeviceMesh:
    """The mesh of `pp, dp_replicate, dp_shard, cp, tp` (tp fastest), with `dp`, `dp_shard_cp` and `dp_cp` beside them.

    `device`: "cuda" or "cpu"; by default what torch has. Starts torch.distributed where it was not started (under
    torchrun). Raises UserError where the layout's product is not the number of ranks.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not dist.is_initialized():
        if "RANK" not in os.environ:
            raise UserError("torch.distributed is not started; run this with torchrun, or init_process_group first")
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    if layout.world != dist.get_world_size():
        raise UserError(
            f"the layout ({layout}) takes {layout.world} ranks and {dist.get_world_size()} were started; make the "
            "product of its axes the number of ranks"
        )
    mesh = init_device_mesh(kind, tuple(layout.sizes.values()), mesh_dim_names=AXES)
    for name, axes in FLATTENED.items():
        mesh[axes]._flatten(name)
    return mesh
