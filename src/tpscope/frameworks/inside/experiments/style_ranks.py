"""Run one scene on ranks of its own: forks of this process that meet in a gloo group, each leaving what it has."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Shard
from torch.distributed.tensor.parallel import parallelize_module

from tpscope.frameworks.inside.experiments.style_cases import Scene, Styles

# Seconds a run may take, on a machine that does other things too; and the others once one rank has raised.
SECONDS, GRACE = 300.0, 20.0
_POLL = 0.01


@dataclass
class Held:
    """One tensor of one rank: what this rank holds of it, how PyTorch says it is placed, and the whole, where asked.

    `pending` marks a gradient that the rank holds as a part of a sum.
    """

    local: torch.Tensor
    placement: str = ""
    whole: torch.Tensor | None = None
    trains: bool = True
    pending: bool = False


@dataclass
class Left:
    """What one rank has after forward and backward, or what it raised."""

    tensors: dict[str, Held] = field(default_factory=dict)
    raised: str = ""
    trace: str = ""


def part(whole: torch.Tensor, placement: Placement, rank: int, ranks: int) -> torch.Tensor:
    """What a rank has of a tensor."""
    if not isinstance(placement, Shard):
        return whole.clone()
    return whole.chunk(ranks, placement.dim)[rank].clone()


def sharded(
    scene: Scene, styles: Callable[[], Styles], ranks: int, scratch: Path,
    after: Callable[[nn.Module, DeviceMesh], None] | None = None,
) -> list[Left]:  # fmt: skip
    """The scene on real ranks, with these styles one after the other on its module; what each rank has at the end."""
    files = [scratch / f"{time.monotonic_ns()}-{rank}" for rank in range(ranks)]
    store = scratch / f"{time.monotonic_ns()}-store"
    children = [_fork(scene, styles, rank, ranks, store, files[rank], after) for rank in range(ranks)]
    _wait(children)
    late = Left(raised=f"no answer within {SECONDS:.0f} s")
    lefts = [torch.load(file, weights_only=False) if file.is_file() else late for file in files]
    # A rank that was ended since another raised has nothing to say of its own.
    return sorted(lefts, key=lambda left: left is late) if any(left.raised for left in lefts) else lefts


def _wait(children: list[int]) -> None:
    """Until all have ended, or their time is over: soon after one of them raised, it is."""
    deadline = time.monotonic() + SECONDS
    waiting = set(children)
    while waiting and time.monotonic() < deadline:
        for child in sorted(waiting):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                waiting.discard(child)
                deadline = min(deadline, time.monotonic() + GRACE) if status else deadline
        time.sleep(_POLL)
    for child in waiting:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _fork(
    scene: Scene, styles: Callable[[], Styles], rank: int, ranks: int, store: Path, file: Path,
    after: Callable[[nn.Module, DeviceMesh], None] | None,
) -> int:  # fmt: skip
    child = os.fork()
    if child:
        return child
    left = Left()
    try:
        dist.init_process_group(
            "gloo", store=dist.FileStore(str(store), ranks), rank=rank, world_size=ranks,
            timeout=timedelta(seconds=SECONDS),
        )  # fmt: skip
        mesh = init_device_mesh("cpu", (ranks,), mesh_dim_names=("tp",))
        left.tensors = _run(scene, styles(), mesh, rank, ranks, after)
    except Exception as error:  # noqa: BLE001 - what a style raises is the answer to trying it
        words = " ".join(str(error).split())
        left.raised, left.trace = f"{type(error).__name__}: {words}", traceback.format_exc()
    torch.save(left, f"{file}.partial")
    os.rename(f"{file}.partial", file)
    # Without the group's own farewell, which would wait for a rank that raised.
    os._exit(1 if left.raised else 0)


def _run(
    scene: Scene, styles: Styles, mesh: DeviceMesh, rank: int, ranks: int,
    after: Callable[[nn.Module, DeviceMesh], None] | None,
) -> dict[str, Held]:  # fmt: skip
    model = scene.module()
    if around := scene.around():
        parallelize_module(model, mesh, around)
    for style in styles:
        parallelize_module(model, mesh, {scene.at: style} if scene.at else style)
    seen: list[object] = []
    # Registered after the styles' own hooks, so it sees what the next module sees.
    model.get_submodule(scene.at).register_forward_hook(lambda module, inputs, output: seen.append(output))
    inputs = [
        part(whole, placement, rank, ranks).requires_grad_(whole.is_floating_point())
        for whole, placement in zip(scene.inputs(), scene.given, strict=True)
    ]
    outputs = _tuple(model(*inputs))
    shares = [part(weights(output, scene, ranks), scene.gives, rank, ranks) for output in outputs]
    loss = sum((_local(output) * share).sum() for output, share in zip(outputs, shares, strict=True))
    assert isinstance(loss, torch.Tensor)
    if loss.requires_grad:
        loss.backward()
    if after:
        after(model, mesh)
    return {**_given(seen[0], outputs), **_gradients(inputs), **_parameters(model)}


def weights(output: torch.Tensor, scene: Scene, ranks: int) -> torch.Tensor:
    """What the whole output is multiplied by before it is summed to the loss: fixed numbers, no two alike."""
    shape = list(_local(output).shape)
    if isinstance(scene.gives, Shard):
        shape[scene.gives.dim] *= ranks
    return torch.rand(shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64) + 0.1


def whole(scene: Scene) -> dict[str, Held]:
    """The same module unsharded, forward and backward, in this process."""
    model = scene.module()
    inputs = [item.clone().requires_grad_(item.is_floating_point()) for item in scene.inputs()]
    seen: list[object] = []
    model.get_submodule(scene.at).register_forward_hook(lambda module, given, output: seen.append(output))
    outputs = _tuple(model(*inputs))
    loss = sum((output * weights(output, scene, 1)).sum() for output in outputs)
    assert isinstance(loss, torch.Tensor)
    if loss.requires_grad:
        loss.backward()
    return {**_given(seen[0], outputs), **_gradients(inputs), **_parameters(model)}


def _tuple(output: object) -> tuple[torch.Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _placed(tensor: torch.Tensor) -> str:
    return ", ".join(repr(item) for item in tensor.placements) if isinstance(tensor, DTensor) else ""


def _given(seen: object, outputs: tuple[torch.Tensor, ...]) -> dict[str, Held]:
    """What the module under trial gave to the next one, and what came out at the end."""
    found = {
        f"output {number} of the module": Held(_local(item).detach().clone(), _placed(item))
        for number, item in enumerate(_tuple(seen))
    }
    return found | {
        f"output {number}": Held(_local(item).detach().clone(), _placed(item)) for number, item in enumerate(outputs)
    }


def _gradients(inputs: list[torch.Tensor]) -> dict[str, Held]:
    return {
        f"gradient of input {number}": Held(_local(item.grad).clone(), _placed(item.grad))
        for number, item in enumerate(inputs)
        if item.grad is not None
    }


def _parameters(model: nn.Module) -> dict[str, Held]:
    found = {}
    for name, item in model.named_parameters():
        found[f"parameter {name}"] = Held(
            _local(item).detach().clone(), _placed(item), trains=item.requires_grad,
            whole=item.full_tensor().detach().clone() if isinstance(item, DTensor) else item.detach().clone(),
        )  # fmt: skip
        if item.grad is not None:
            gathered = item.grad.full_tensor() if isinstance(item.grad, DTensor) else item.grad
            found[f"gradient of {name}"] = Held(
                _local(item.grad).clone(), _placed(item.grad), gathered.clone(), pending="Partial" in _placed(item.grad)
            )
    return found
