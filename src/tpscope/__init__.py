"""tpscope: tensor parallelism of large models, understood and proven by running the frameworks' own code."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`tpscope.prove(...)` without an import of its own."""
    if name == "prove":
        return importlib.import_module("tpscope.prove")
    raise AttributeError(f"module 'tpscope' has no attribute {name!r}")
