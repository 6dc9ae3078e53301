"""Where the pieces of one tensor live on one mesh axis, spelled as PyTorch spells it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPELLINGS = (
    (re.compile(r"^_?StridedShard\(dim=(-?\d+), (?:sf|split_factor)=(\d+)\)$"), "strided"),
    (re.compile(r"^S?Shard\(dim=(-?\d+)\)$"), "shard"),
    (re.compile(r"^Replicate\(\)$"), "replicate"),
    (re.compile(r"^_?(?:Masked|Norm)?Partial\((?:reduce_op=)?'?(\w*)'?.*\)$"), "partial"),
)


@dataclass(frozen=True)
class Placement:
    """One tensor on one mesh axis: `replicate`, `shard` along `dim`, `strided` shard, or `partial` under `op`.

    `strided` is what a fused weight needs: dim `dim` is cut into `split_factor` blocks and every rank holds its
    slice of each block (torch: `_StridedShard(dim, split_factor)`).
    """

    kind: str
    dim: int | None = None
    op: str | None = None
    split_factor: int | None = None

    def __str__(self) -> str:
        match self.kind:
            case "replicate":
                return "Replicate()"
            case "shard":
                return f"Shard(dim={self.dim})"
            case "strided":
                return f"_StridedShard(dim={self.dim}, split_factor={self.split_factor})"
            case _:
                return f"Partial({self.op})"

    @classmethod
    def parse(cls, text: str) -> Placement:
        """Read a placement as torch prints it. Raises ValueError on a spelling that is not known."""
        for pattern, kind in _SPELLINGS:
            if match := pattern.match(text.strip()):
                groups = match.groups()
                if kind == "strided":
                    return cls("strided", dim=int(groups[0]), split_factor=int(groups[1]))
                if kind == "shard":
                    return cls("shard", dim=int(groups[0]))
                if kind == "replicate":
                    return REPLICATE
                return cls("partial", op=groups[0] or "sum")
        raise ValueError(f"not a placement as torch prints it: {text!r}")

    @property
    def sharded(self) -> bool:
        """True where a rank holds only a part of the tensor."""
        return self.kind in ("shard", "strided")


REPLICATE = Placement("replicate")
HIDDEN_ALIASES = (Placement("shard", dim=-1), Placement("shard", dim=2))
PARTIAL = Placement("partial", op="sum")


def shard(dim: int) -> Placement:
    """`Shard(dim)`."""
    return Placement("shard", dim=dim)


def strided(dim: int, split_factor: int) -> Placement:
    """`_StridedShard(dim, split_factor)`."""
    return Placement("strided", dim=dim, split_factor=split_factor)


def collective(source: Placement, target: Placement) -> str:
    """The collective that turns activations laid out as `source` into `target` on one axis, or "" if none."""
    match source.kind, target.kind:
        case "partial", "replicate":
            return "all_reduce"
        case "partial", "shard" | "strided":
            return "reduce_scatter"
        case (("shard" | "strided"), "replicate"):
            return "all_gather"
        case (("shard" | "strided"), ("shard" | "strided")):
            return "" if source.dim == target.dim else "all_to_all"
        case _:
            return ""
