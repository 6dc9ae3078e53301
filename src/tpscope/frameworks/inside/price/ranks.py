"""The same step on real ranks: forks that meet in a gloo group, with real numbers in a model small enough for it."""

from __future__ import annotations

import os
import signal
import time
import traceback
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.device import Elsewhere
from tpscope.frameworks.inside.price.context import local_tokens
from tpscope.frameworks.inside.price.fake import local
from tpscope.frameworks.inside.price.step import run, vocabulary
from tpscope.frameworks.inside.price.subjects import Wanted, built
from tpscope.frameworks.inside.price.tracer import Tracer, axes_of
from tpscope.frameworks.inside.price.where import Span
from tpscope.language.measured.price import Collective, StepTrace

SECONDS = 200.0
_POLL = 0.01


def issued(family: str, case: Case, batch: int, sequence: int) -> list[Collective]:
    """The collectives that rank 0 of the layout's world issues. Raises RuntimeError with what a rank raised."""
    store = case.folder.parent / "ranks"
    children = [_fork(family, case, batch, sequence, rank, store) for rank in range(case.request.layout.world)]
    deadline, waiting = time.monotonic() + SECONDS, set(children)
    while waiting and time.monotonic() < deadline:
        waiting -= {child for child in waiting if os.waitpid(child, os.WNOHANG)[0]}
        time.sleep(_POLL)
    for child in waiting:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    found = [_left(store, rank) for rank in range(len(children))]
    for left in found:
        if isinstance(left, str):
            raise RuntimeError(left)
    return [item for item in found[0] if isinstance(item, Collective)]


def _left(store: Path, rank: int) -> Any:
    file = Path(f"{store}-{rank}")
    return torch.load(file, weights_only=False) if file.is_file() else f"rank {rank}: no answer within {SECONDS:.0f} s"


def _fork(family: str, case: Case, batch: int, sequence: int, rank: int, store: Path) -> int:
    child = os.fork()
    if child:
        return child
    size = case.request.layout.world
    try:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
        meeting = dist.FileStore(str(store), size)
        dist.init_process_group("gloo", store=meeting, rank=rank, world_size=size, timeout=timedelta(seconds=SECONDS))
        left: Any = _run(family, case, batch, sequence)
    except Exception:  # noqa: BLE001 - what a rank raises is told by the process that asked
        left = f"rank {rank}: {traceback.format_exc()}"
    torch.save(left, f"{store}-{rank}.partial")
    os.rename(f"{store}-{rank}.partial", f"{store}-{rank}")
    # Without the group's own farewell, which would wait for a rank that raised.
    os._exit(0)


def _run(family: str, case: Case, batch: int, sequence: int) -> list[Collective]:
    subject = built(family, case, nullcontext(), Wanted())
    model = subject.model
    _fill(model)
    layers = int(model.config.get_text_config().num_hidden_layers)
    sequence = local_tokens(sequence, case.request.layout.cp)
    tracer = Tracer(model, case.roots, axes_of(subject.mesh), Span(layers), batch * sequence, real=True)
    ids = torch.randint(3, vocabulary(model), (batch, sequence), generator=torch.Generator().manual_seed(0))
    trace = StepTrace(case.request.framework)
    with tracer.on(), Elsewhere("cpu"), subject.around():
        run(case, model, subject.loss, None, ids, tracer, trace)
    if trace.stopped is not None:
        raise RuntimeError(f"{trace.stopped.kind}: {trace.stopped.message}")
    return tracer.collectives()


def _fill(model: nn.Module) -> None:
    """Numbers that a step can be run on: what they are decides about no collective."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            local(parameter).normal_(0.0, 0.02, generator=generator)
        for buffer in model.buffers():
            local(buffer).fill_(1)
