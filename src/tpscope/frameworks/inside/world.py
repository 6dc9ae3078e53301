"""A process group of any size in one process: torch's fake backend, which has ranks and moves nothing."""

from __future__ import annotations

import os

import torch.distributed as dist


def start(size: int) -> None:
    """Be rank 0 of `size` ranks. Variables that launchers set are set as torchrun would."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT="29500",
    )  # fmt: skip
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())


def stop() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
