"""tpscope: tensor parallelism of large models, understood and proven by running the frameworks' own code."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`tpscope.prove(...)` and `tpscope.parallelize(...)` without an import of their own."""
    if name == "prove":
        return importlib.import_module("tpscope.prove")
    if name == "parallelize":
        return importlib.import_module("tpscope.engine.parallelize").parallelize
    raise AttributeError(f"module 'tpscope' has no attribute {name!r}")
