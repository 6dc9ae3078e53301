"""One training step at full size, traced."""

from __future__ import annotations

from tpscope.frameworks.inside.price.step import answer

__all__ = ["answer"]
