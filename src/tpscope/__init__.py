"""tpscope: tensor parallelism of large models, understood and proven by running the frameworks' own code."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_TRAINING = (
    "add_adapters",
    "build_mesh",
    "Pipeline",
    "clip_grad_norm_",
    "compile_layers",
    "context_parallel",
    "context_part",
    "data_sampler",
    "finish_gradients",
    "fully_shard",
    "last_checkpoint",
    "load_adapters",
    "load_checkpoint",
    "load_pretrained",
    "parallelize",
    "save_checkpoint",
    "save_pretrained",
    "split",
    "state_dict",
    "trainer",
)


def __getattr__(name: str) -> Any:
    """`tpscope.prove(...)` and `tpscope.parallelize(...)` without an import of their own."""
    if name == "prove":
        return importlib.import_module("tpscope.prove")
    if name in _TRAINING:
        return getattr(importlib.import_module("tpscope.training"), name)
    raise AttributeError(f"module 'tpscope' has no attribute {name!r}")
