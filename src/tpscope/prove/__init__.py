"""Proofs of a sharded model against the same model unsharded. See docs/architecture.md.

The room is its own verb: `tpscope.prove("qwen3-8b", with_=["nemo@0.6.0"])` is `call.prove`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    """A package that can be called: importing it would else hide a function of its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from tpscope.prove.call import prove

        return prove(*arguments, **options)


sys.modules[__name__].__class__ = _Verb
