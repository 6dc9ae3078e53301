"""The ranks of one run: a process among others that torchrun started, or one that pretends to be."""

from __future__ import annotations

import datetime
import os
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from tpscope.frameworks.inside import world


@dataclass
class Ranks:
    """This process among the others. `host` is a gloo group of ours, apart from the framework's on the device; None
    where this process is the only one and the others are pretended."""

    rank: int
    size: int
    device: torch.device
    host: Any

    def together(self) -> None:
        """Wait until every rank is here."""
        if self.host is not None:
            dist.barrier(group=self.host)

    def all(self, value: Any) -> list[Any]:
        """The value of every rank, in order."""
        if self.host is None:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.host)
        return found

    def either(self, mine: bool) -> bool:
        """Whether any rank says so."""
        return any(self.all(mine))

    def first(self, value: Any) -> Any:
        """Rank 0's value."""
        if self.host is None:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0, group=self.host)
        return holder[0]

    def say(self, text: str) -> None:
        """A line in the log, by rank 0."""
        if self.rank == 0:
            print(f"[bench {time.strftime('%H:%M:%S')}] {text}", flush=True)


def join(rehearsal: bool, pretended: int = 0) -> Ranks:
    """Enter the group that torchrun has laid out: NCCL on this rank's GPU, or gloo for a rehearsal. `pretended`: be
    rank 0 of so many ranks that are not there: this rank's kernels and memory are real, and collectives move nothing.
    """
    if pretended:
        world.start(pretended)
        return Ranks(0, pretended, torch.device("cpu") if rehearsal else torch.device("cuda", 0), None)
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if size == 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29511")
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK=str(local))
    limit = datetime.timedelta(seconds=600)
    store, rank, size = next(dist.rendezvous("env://"))
    # torchrun with a fixed port keeps its store over restarts, and with it the addresses of processes that are gone.
    options: dict[str, Any] = {
        "store": dist.PrefixStore(f"bench-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store),
        "rank": rank,
        "world_size": size,
        "timeout": limit,
    }
    if rehearsal:
        dist.init_process_group("gloo", **options)
        return Ranks(dist.get_rank(), size, torch.device("cpu"), dist.new_group(backend="gloo", timeout=limit))
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", **options)
    return Ranks(dist.get_rank(), size, device, dist.new_group(backend="gloo", timeout=limit))


def leave() -> None:
    """Leave the group."""
    if dist.is_initialized():
        dist.destroy_process_group()
