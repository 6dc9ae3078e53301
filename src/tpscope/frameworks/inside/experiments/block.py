"""One decoder layer as it ran: which module takes whose output, in which layout over tp, and who communicates.

The framework's own comparison runs as it always does (its small model, its loss, its backward); only hooks are added.
A tensor is followed by the storage that holds it. Layouts are told by laying the shapes of the sharded run beside those
of the unsharded one; a partial sum has the shape of the whole and cannot be told from it.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.frameworks.inside import gradient
from tpscope.frameworks.inside.case import Case
from tpscope.language.measured.layer import Visit


class Watch:
    """Hooks on the first decoder layer of a model: visits in the order in which modules were entered."""

    def __init__(self, model: nn.Module):
        self.path, layer = first_layer(model)
        self.layer = layer
        self.visits: list[Visit] = []
        self._alive: list[Any] = []
        self._given: set[int] = set()
        self._after = Visit("", "", "")
        for name, module in layer.named_modules():
            visit = Visit(name, type(module).__name__.removeprefix("FSDP"), name.rpartition(".")[0])
            module.register_forward_pre_hook(self._enter(visit), prepend=True, with_kwargs=True)
            module.register_forward_hook(self._leave(visit))

    def _enter(self, visit: Visit) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            tensor = _first((args, kwargs))
            visit.takes, visit.shape_in = self._mark(tensor)
            if not visit.name and isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                tensor.register_hook(self._backward(None))
            visit.before, self._after = self._after.forward, Visit("", "", "")
            self.visits.append(visit)
            now.visit, now.phase = visit, "forward"

        return hook

    def _leave(self, visit: Visit) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = _first(output)
            visit.gives, visit.shape_out = self._mark(tensor)
            now.visit = self._after if visit.name else None
            if not visit.name:
                visit.before = self._after.forward
            # A module that hands on what a part of it gave has that part's gradient: it is the part's.
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad and visit.gives not in self._given:
                tensor.register_hook(self._backward(visit))
            self._given.add(visit.gives)

        return hook

    def _backward(self, visit: Visit | None) -> Any:
        def hook(gradient: Any) -> None:
            now.visit, now.phase = visit, "backward"

        return hook

    def _mark(self, tensor: Any) -> tuple[int, list[int]]:
        """The storage of a tensor and its local shape. It is kept alive, so that no other gets its address."""
        if not isinstance(tensor, torch.Tensor):
            return 0, []
        local = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
        self._alive.append(local)
        return local.untyped_storage()._cdata, list(local.shape)


# What a collective of the backward is called where it works on a vector: the gradient of a norm's weight or a bias.
WEIGHT = "of a weight's gradient"


class _Now:
    """The visit that collectives belong to, and whether they are of the forward or the backward."""

    visit: Visit | None = None
    phase = "forward"


now = _Now()


def first_layer(model: nn.Module) -> tuple[str, nn.Module]:
    """Path and module of the first decoder layer: the first entry of the longest list of modules."""
    lists = [(path, found) for path, found in model.named_modules() if isinstance(found, nn.ModuleList) and len(found)]
    path, layers = max(lists, key=lambda item: (sum(1 for _ in item[1].parameters()), -len(item[0])))
    return f"{path}.0", layers[0]


def answer(family: str, case: Case, options: dict[str, Any]) -> dict[str, Any]:
    """Visits of the sharded layer, with the shapes that the same modules see in the unsharded one."""
    adapter = importlib.import_module(f"tpscope.frameworks.inside.{family}")
    whole: list[Watch] = []
    sharded: list[Watch] = []
    control, stir, dispatch = gradient.control, gradient.stir, gradient.Recorder.__torch_dispatch__

    def watched_control(case: Case, build: Any) -> nn.Module | None:
        def watched() -> nn.Module:
            model = build()
            whole.append(Watch(model))
            return model

        return control(case, watched)

    def watched_stir(model: nn.Module) -> None:
        stir(model)
        sharded.append(Watch(model))

    def counted(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = len(self.calls)
        result = dispatch(self, func, types, args, kwargs)
        if now.visit is not None and self.phase in ("forward", "backward"):
            counts = now.visit.forward if now.phase == "forward" else now.visit.backward
            for call in self.calls[before:]:
                kind = f"{call.kind} {WEIGHT}" if now.phase == "backward" and len(call.shape) == 1 else call.kind
                counts[kind] = counts.get(kind, 0) + 1
        return result

    gradient.control, gradient.stir = watched_control, watched_stir
    gradient.Recorder.__torch_dispatch__ = counted
    adapter.answer(case)
    ran = [watch for watch in sharded if watch.visits]
    if not ran or not whole:
        return {"layer": "", "visits": [], "unobserved": str(case.answer.forward.get("unobserved", "no layer ran"))}
    watch = ran[-1]
    shapes = {visit.name: visit for visit in whole[-1].visits}
    known = [visit for visit in watch.visits if visit.name in shapes]
    for visit in known:
        visit.whole_in, visit.whole_out = shapes[visit.name].shape_in, shapes[visit.name].shape_out
    error = case.answer.error
    return {
        "layer": watch.path, "kind": type(watch.layer).__name__.removeprefix("FSDP"), "unobserved": "",
        "error": f"{error.kind}: {error.message}" if error else "",
        "visits": known,
    }  # fmt: skip


def _first(value: Any) -> Any:
    """The first floating-point tensor in nested arguments."""
    if isinstance(value, torch.Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((found for item in value if (found := _first(item)) is not None), None)
    return None
