"""Triton kernels on fake tensors: what a launch reads and writes, told by the source of its kernel.

A kernel's source says which of its arguments it loads from and which it stores to. Each tensor among them is taken to
be gone over once in each direction: what its loops over blocks do. Nothing is computed.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tpscope.frameworks.inside.price.tracer import Tracer

_told: list[Tracer] = []


def told_to(tracer: Tracer) -> None:
    """Launches are told to this tracer from here on."""
    _told[:] = [tracer]


def stand_in(*modules: ModuleType) -> list[str]:
    """Let the kernels of modules be launched without a GPU and without Triton. Returns what is assumed with it."""
    names = []
    for module in modules:
        for name, value in list(vars(module).items()):
            if name.endswith("_kernel"):
                names.append(name)
                setattr(module, name, value if isinstance(value, Kernel) else Kernel(name, value))
            elif name.startswith("HAVE_") and value is False:
                setattr(module, name, True)
        if hasattr(module, "triton"):
            module.triton = SimpleNamespace(next_power_of_2=lambda number: 1 << (int(number) - 1).bit_length())
    return [f"Triton kernels go once over each tensor that their source loads or stores: {', '.join(names)}"]


class Kernel:
    """`kernel[grid](...)` notes what the launch moves."""

    def __init__(self, name: str, kernel: Any):
        self.name = name
        function = getattr(kernel, "fn", kernel)
        self.parameters = list(inspect.signature(function).parameters)
        self.loaded, self.stored = touched(textwrap.dedent(inspect.getsource(function)))

    def __getitem__(self, grid: Any) -> Any:
        return self._launch

    def _launch(self, *arguments: Any, **options: Any) -> None:
        given = dict(zip(self.parameters, arguments, strict=False)) | options
        tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
        read = [tensor for name, tensor in tensors.items() if name in self.loaded]
        written = [tensor for name, tensor in tensors.items() if name in self.stored]
        for tracer in _told:
            tracer.launched(f"triton::{self.name}", read, written)


def touched(source: str) -> tuple[set[str], set[str]]:
    """Arguments that a kernel loads from, and those that it stores to: whatever the pointers in `tl.load` and
    `tl.store` are made of, through assignments."""
    tree = ast.parse(source)
    function = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    parameters = {argument.arg for argument in function.args.args}
    comes_from = {name: {name} for name in parameters}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            comes_from.setdefault(node.targets[0].id, set()).update(_names(node.value))
    found: dict[str, set[str]] = {"load": set(), "store": set()}
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in found:
            found[node.func.attr] |= _pointers(_names(node.args[0]), comes_from, parameters)
    return found["load"], found["store"]


def _names(node: ast.AST) -> set[str]:
    return {inside.id for inside in ast.walk(node) if isinstance(inside, ast.Name)}


def _pointers(names: set[str], comes_from: dict[str, set[str]], parameters: set[str]) -> set[str]:
    """The arguments behind names that are pointers by their own name: offsets are numbers."""
    found, waiting = set(), {name for name in names if name.endswith("_ptr")}
    while waiting:
        name = waiting.pop()
        if name in parameters:
            found.add(name)
        else:
            waiting |= {one for one in comes_from.get(name, set()) - {name} if one.endswith("_ptr")}
    return found
