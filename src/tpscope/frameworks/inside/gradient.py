"""What happens over tp to every parameter's gradient: a traced backward of a small model, then the training loop's own
statements up to the optimizer step. The small model has the real one's head counts and divisibility, two layers, and
real numbers, on a fake process group."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.trace import failure
from tpscope.frameworks.inside.wire import MARK, Recorder
from tpscope.language.answer import FrameworkAnswer, to_json
from tpscope.language.plan import wildcard
from tpscope.language.verdict import Reduction, Status

BATCH, SEQUENCE = 2, 64


def inputs(vocabulary: int) -> dict[str, torch.Tensor]:
    """Random token ids `[BATCH, SEQUENCE]` and labels of the same shape."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, vocabulary, (BATCH, SEQUENCE), generator=generator)
    return {"input_ids": ids, "labels": ids.clone()}


def control(case: Case, build: Callable[[], nn.Module]) -> nn.Module | None:
    """The small model, unsharded, run once: if that fails the fault is not in the sharding and nothing is observed."""
    model = build()
    try:
        with torch.no_grad():
            model(input_ids=inputs(_vocabulary(model))["input_ids"])
    except Exception as error:  # noqa: BLE001 - any failure here means the same: no control, no observation
        found = failure(error, "control", case.roots)[0]
        case.answer.forward["unobserved"] = f"the small model does not run unsharded here: {found.kind}: {found.message}"
        return None
    return model


def observe(
    case: Case,
    model: nn.Module,
    loss: Callable[[nn.Module, dict[str, torch.Tensor], Recorder], torch.Tensor],
    loop: Callable[[nn.Module], None],
) -> Recorder:
    """Run forward, loss and backward of a sharded small model, then `loop`; fill `gradient_loop` of every parameter."""
    size = case.request.layout.tp
    recorder = Recorder(size)
    batch = inputs(_vocabulary(model))
    model.train()
    try:
        with recorder:
            value = loss(model, batch, recorder)
            recorder.phase = "backward"
            value.backward()
    except Exception as error:  # noqa: BLE001 - what the sharded model raises is the framework's answer
        found, deliberate = failure(error, f"{recorder.phase} of the sharded model", case.roots)
        case.answer.status = Status.REFUSED if deliberate else Status.CRASHED
        case.answer.error = found
        return recorder
    before = {name: _local(p.grad).clone() for name, p in model.named_parameters() if p.grad is not None}
    pending = {name: _pending(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    in_backward = _reduced_in_backward(model, recorder)
    try:
        with recorder:
            recorder.phase = "loop"
            loop(model)
    except Exception as error:  # noqa: BLE001 - the loop's own statements may need what is not here
        found = failure(error, "loop", case.roots)[0]
        case.answer.forward["unobserved"] = f"{found.kind}: {found.message}"
        case.answer.forward.setdefault("not_run", {})["loop"] = to_json(found)
        return recorder
    counts = {phase: recorder.count(phase) for phase in ("forward", "loss", "backward", "loop")}
    case.answer.forward["collectives_small_model"] = counts
    found_by_name = {}
    for name, parameter in model.named_parameters():
        if name in before and parameter.grad is not None:
            looped = _classify(before[name], _local(parameter.grad), size)
            found_by_name[wildcard(name)] = _combine(in_backward.get(name), pending[name], looped)
    _fill(case.answer, found_by_name)
    return recorder


def _fill(answer: FrameworkAnswer, found: dict[str, Reduction]) -> None:
    for row in answer.parameters:
        if row.placement != "Replicate()":
            row.gradient_loop = Reduction.SHARDED
        elif not row.trainable:
            row.gradient_loop = Reduction.NONE
        else:
            row.gradient_loop = found.get(wildcard(row.name), Reduction.UNOBSERVED)


def _combine(backward: Reduction | None, pending: bool, loop: Reduction) -> Reduction:
    if loop == Reduction.UNOBSERVED:
        return loop
    if Reduction.SUM in (backward, loop) or pending:
        return Reduction.SUM
    return loop if loop != Reduction.NONE else (backward or Reduction.NONE)


def _classify(before: torch.Tensor, after: torch.Tensor, size: int) -> Reduction:
    """Which reduction a gradient went through, from the mark that the recorder put on what was reduced."""
    chosen = before.abs() > before.abs().max() * 1e-3
    if not bool(chosen.any()):
        return Reduction.UNOBSERVED
    ratio = float((after[chosen] / before[chosen]).double().median())
    for value, reduction in ((1.0, Reduction.NONE), (MARK, Reduction.MEAN), (size * MARK, Reduction.SUM)):
        if abs(ratio / value - 1) < 0.02:
            return reduction
    return Reduction.UNOBSERVED


def _reduced_in_backward(model: nn.Module, recorder: Recorder) -> dict[str, Reduction]:
    """Parameters whose own gradient a collective of the backward read: by storage, or (DTensor reduces a partial
    gradient before it is accumulated) by a reduction of exactly the parameter's shape, one for each such parameter."""
    found: dict[str, Reduction] = {}
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        calls = recorder.reducing("backward", _local(parameter.grad).untyped_storage()._cdata)
        if calls:
            found[name] = Reduction.MEAN if calls[-1].op == "avg" else Reduction.SUM
        elif isinstance(parameter, DTensor) and all(not p.is_shard() for p in parameter.placements):
            shapes.setdefault(tuple(parameter.shape), []).append(name)
    for shape, names in shapes.items():
        calls = [c for c in recorder.calls if c.phase == "backward" and c.kind == "all_reduce" and c.shape == shape]
        if len(calls) >= len(names):
            found.update(dict.fromkeys(names, Reduction.SUM))
    return found


def _pending(gradient: torch.Tensor) -> bool:
    return isinstance(gradient, DTensor) and any(placement.is_partial() for placement in gradient.placements)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def _vocabulary(model: nn.Module) -> int:
    return int(model.config.get_text_config().vocab_size)


def statements(path: Path, function: str, after: str, until: str) -> Any:
    """Compile the statements of a function that stand between the last one that calls `after` and the first that
    calls `until`, under their own file name and line numbers. Returns the code and the names that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = next(
        item for item in ast.walk(tree) if isinstance(item, ast.FunctionDef) and item.name == function
    )
    calls = [{_called(call) for call in ast.walk(item) if isinstance(call, ast.Call)} for item in node.body]
    first = max(index for index, names in enumerate(calls) if after in names) + 1
    last = min(index for index, names in enumerate(calls) if until in names and index >= first)
    body = node.body[first:last]
    used = {item.id for part in body for item in ast.walk(part) if isinstance(item, ast.Name)}
    return compile(ast.Module(body, []), str(path), "exec"), _imported(tree, used)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _imported(tree: ast.Module, used: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) in used:
                    found[alias.asname or alias.name] = getattr(importlib.import_module(node.module), alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name).split(".")[0] in used:
                    found[(alias.asname or alias.name).split(".")[0]] = importlib.import_module(alias.name)
    return found


def source_of(module: str) -> Path:
    """The file of a module of the framework, without importing it."""
    parts = module.split(".")
    for entry in sys.path:
        file = Path(entry, *parts).with_suffix(".py")
        if file.is_file():
            return file
    raise FileNotFoundError(module)
