"""One case on one rank: warm-up, timed forward and backward, memory by category, and the optimizer's step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside.bench.quiet import SLOWER, Cores
from tpscope.frameworks.inside.bench.subject import Subject

SEED = 20
# Repeats are taken until as many as asked for were undisturbed, but not more than this multiple of them.
MOST = 3


class Others(Protocol):
    """The ranks that measure the same case at the same time. Nothing moves on the device."""

    def together(self) -> None:
        """Wait until every rank is here."""

    def either(self, mine: bool) -> bool:
        """Whether any rank says so."""


@dataclass(frozen=True)
class Asked:
    """What is measured of a subject: tokens `[batch, sequence]`, the loss, how often."""

    batch: int
    sequence: int
    loss: str
    warmup: int = 2
    repeats: int = 7
    optimizer: bool = True


@dataclass
class Times:
    """Milliseconds of repeats, in the order taken."""

    taken: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Median, lowest, highest and number."""
        low, high = min(self.taken), max(self.taken)
        return {"median": statistics.median(self.taken), "low": low, "high": high, "repeats": len(self.taken)}


@dataclass
class Measured:
    """What one rank found. Bytes are this rank's; milliseconds from a synchronised device to a synchronised device.
    `slowdown` is that of this rank's cores after each repeat of forward and backward, `disturbed` whether any rank's
    cores were shared."""

    forward_backward: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    disturbed: list[bool] = field(default_factory=list)
    slowdown: list[float] = field(default_factory=list)
    first: float = 0.0
    step: list[float] = field(default_factory=list)
    step_name: str = ""
    step_error: str | None = None
    loss: float = float("nan")
    memory: dict[str, int] = field(default_factory=dict)
    model_class: str = ""
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As a dictionary of plain values."""
        return asdict(self)


def measure(subject: Subject, asked: Asked, others: Others, cores: Cores) -> Measured:
    """Measure one case on all ranks at once."""
    device, found = subject.device, Measured(model_class=_name(subject.model))
    generator = torch.Generator().manual_seed(SEED)
    vocabulary = int(subject.wanted.config["vocab_size"])
    ids = torch.randint(0, vocabulary, (asked.batch, asked.sequence), generator=generator).to(device)
    forget(subject)
    subject.prepare(asked.loss)
    found.memory["after_load"] = _allocated(device)
    for index in range(asked.warmup):
        others.together()
        found.first = max(found.first, sum(_once(subject, ids, found)[:2]))
        if index == 0:
            # Compilation and autotuning allocate what a step does not.
            _reset_peak(device)
    _reset_peak(device)
    while found.disturbed.count(False) < asked.repeats and len(found.disturbed) < MOST * asked.repeats:
        cores.settle()
        others.together()
        forward, backward, found.loss = _once(subject, ids, found)
        found.forward.append(forward)
        found.forward_backward.append(forward + backward)
        found.slowdown.append(cores.slowdown())
        found.disturbed.append(others.either(found.slowdown[-1] > SLOWER))
    found.memory["peak_bytes"] = _peak(device)
    found.memory["reserved"] = _reserved(device)
    found.memory["device_used"] = _used(device)
    found.memory["weights"] = _bytes(subject.model.parameters())
    found.memory["gradients"] = _bytes(item.grad for item in subject.model.parameters() if item.grad is not None)
    if asked.optimizer:
        _step(subject, asked, others, found)
    rest = found.memory["peak_bytes"] - found.memory["weights"] - found.memory["gradients"]
    found.memory["rest"] = max(0, rest)
    found.notes = list(subject.notes)
    forget(subject)
    return found


def _once(subject: Subject, ids: torch.Tensor, found: Measured) -> tuple[float, float, float]:
    """Milliseconds of forward (with loss) and backward, and the loss; gradients are dropped before the clock starts."""
    forget(subject)
    _wait(subject.device)
    start = time.perf_counter()
    with subject.around():
        loss = subject.forward(ids)
        _mark = _event(subject.device)
        middle = time.perf_counter()
        subject.backward(loss)
    _wait(subject.device)
    whole = (time.perf_counter() - start) * 1e3
    forward = _mark(start, middle)
    value = loss.detach()
    return forward, whole - forward, float(value.full_tensor() if isinstance(value, DTensor) else value)


def _event(device: torch.device) -> Callable[[float, float], float]:
    """A mark in the device's own order, read once the step is over: milliseconds before it. A synchronisation between
    forward and backward would keep the CPU from running ahead, which it does in training."""
    if device.type != "cuda":
        return lambda start, middle: (middle - start) * 1e3
    mark, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    mark.record()

    def read(start: float, middle: float) -> float:
        end.record()
        end.synchronize()
        # What stands between the mark and now is the backward; the clock of the host has the whole.
        return max(0.0, (time.perf_counter() - start) * 1e3 - mark.elapsed_time(end))

    return read


def _step(subject: Subject, asked: Asked, others: Others, found: Measured) -> None:
    """The optimizer's step on the gradients that are there: the framework's default, and where that raises the plain
    loop over parameters. `step_name` is the one that was timed, `step_error` what the default raised."""
    for default in (True, False):
        try:
            optimizer = subject.optimizer() if default else _plain(subject)
            _timed(optimizer, subject.device, asked, others, found)
            return
        except torch.OutOfMemoryError:
            found.step_error = "OutOfMemoryError in the optimizer's step"
            return
        except Exception as error:  # noqa: BLE001 - what a default optimizer raises on its own model is the answer
            found.step_error = found.step_error or f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            found.step.clear()


def _plain(subject: Subject) -> torch.optim.Optimizer:
    return torch.optim.AdamW(subject.model.parameters(), lr=0.0, foreach=False, fused=False)


def _timed(
    optimizer: torch.optim.Optimizer, device: torch.device, asked: Asked, others: Others, found: Measured
) -> None:
    options = {name: optimizer.defaults.get(name) for name in ("foreach", "fused")}
    _reset_peak(device)
    for index in range(2 + min(5, asked.repeats)):
        others.together()
        _wait(device)
        start = time.perf_counter()
        optimizer.step()
        _wait(device)
        if index > 1:
            found.step.append((time.perf_counter() - start) * 1e3)
    found.step_name = f"{_name(optimizer)}({', '.join(f'{name}={value}' for name, value in options.items())})"
    found.memory["optimizer_peak_bytes"] = _peak(device)
    found.memory["optimizer"] = _bytes(
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    )
    optimizer.state.clear()


def forget(subject: Subject) -> None:
    """Drop all gradients."""
    for parameter in subject.model.parameters():
        parameter.grad = None


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes that this rank holds of tensors, a shared storage counted once."""
    seen: dict[int, int] = {}
    for tensor in tensors:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        storage = local.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def _name(thing: Any) -> str:
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _reserved(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0


def _used(device: torch.device) -> int:
    """All that is in use on the device: the allocator's, and the driver's and NCCL's beside it."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return int(total - free)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
