"""How many ranks each mesh axis has, and what the user asked for beside the mesh."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")


@dataclass(frozen=True)
class Layout:
    """Sizes of the mesh axes, slowest first; tp varies fastest. World size is their product."""

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1
    sequence_parallel: bool = False

    def __post_init__(self) -> None:
        for axis in AXES:
            if getattr(self, axis) < 1:
                raise ValueError(f"layout: {axis} is {getattr(self, axis)}; every axis has at least one rank")

    @property
    def sizes(self) -> dict[str, int]:
        """Axis name to number of ranks, slowest first."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def world(self) -> int:
        """Number of ranks."""
        return prod(self.sizes.values())

    def __str__(self) -> str:
        shown = [f"{axis}={size}" for axis, size in self.sizes.items() if size > 1] or ["tp=1"]
        return ", ".join(shown) + (", sequence parallel" if self.sequence_parallel else "")


@dataclass(frozen=True)
class Lora:
    """A LoRA request: rank, scale, and which Linear layers (PEFT's names; `all-linear` for all of them).

    `dropout_position` is NeMo's (`pre` or `post`), the framework's own where it is empty.
    """

    r: int
    alpha: int
    targets: tuple[str, ...]
    dropout: float = 0.0
    dropout_position: str = ""
