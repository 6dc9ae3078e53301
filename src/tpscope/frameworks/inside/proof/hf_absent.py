"""Packages that Axolotl's modules import at their top and that decide nothing in a proof: not installed, stood in for.

Asked for only where a module of Axolotl itself imports them and the real package is not there; gone again after it.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any

from tpscope.frameworks.inside.proof.driver import Work

# Compiles the samplers of packing, compiles GPU kernels, quantizes, scores, logs, colours, repairs tokens.
NAMES = ("numba", "triton", "torchao", "evaluate", "wandb", "termcolor", "axolotl.contribs")
_MULTIMODAL = "axolotl.processing_strategies"
_made: list[str] = []


class Absent:
    """Whatever is taken from an absent package. As a decorator it changes nothing; a class of it is empty."""

    def __new__(cls, *given: Any, **options: Any) -> Any:
        """The function itself where it decorates one."""
        return given[0] if len(given) == 1 and callable(given[0]) and not options else super().__new__(cls)

    def __init__(self, *given: Any, **options: Any):
        pass

    def __call__(self, function: Any) -> Any:
        """The function that it decorates, unchanged."""
        return function


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent


class _Finder(MetaPathFinder, Loader):
    """Last on the path: whatever is installed has been found before."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A spec where Axolotl's own source asks."""
        if not any(name == known or name.startswith(f"{known}.") for known in NAMES):
            return None
        frame = sys._getframe(1)
        while frame.f_back is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if "/axolotl/" not in frame.f_code.co_filename:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """An empty module."""
        _made.append(spec.name)
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


@contextmanager
def stood_in() -> Iterator[None]:
    """Import modules of Axolotl in here."""
    # These ask whether such packages are there, and must find the truth.
    for module in ("transformers.trainer", "trl", "bitsandbytes", "peft"):
        importlib.import_module(module)
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        try:
            importlib.import_module(_MULTIMODAL)
        except ModuleNotFoundError:
            sys.modules[_MULTIMODAL] = _Module(_MULTIMODAL)
            _made.append(_MULTIMODAL)
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in _made:
            sys.modules.pop(name, None)


def listed(work: Work) -> None:
    """Name what was stood in for, in this process or in the one that it was forked from."""
    top = sorted({name for name in _made if name.rpartition(".")[0] not in _made})
    if top:
        work.shim(f"not installed here, imported by Axolotl and never called in a proof: {', '.join(top)}")
