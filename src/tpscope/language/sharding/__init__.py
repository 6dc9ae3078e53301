"""What a derived plan says: regions of a model whose output is the sum of what the ranks compute on their slices.

Finer than `Plan`: it can say which rows of a fused weight go together, which gradients are summed, which bias counts
once, and which numbers a module must read to run on a slice. `plan/` derives it, `engine/` runs it. A folder of its
own, so that kept proofs of frameworks do not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class RegionKind(StrEnum):
    """How a region's output on one rank relates to the whole output.

    sum: the ranks' outputs add up. lookup: a table cut along its entries; foreign ids give zeros, the sum restores.
    head: output features lie side by side over the ranks.
    """

    SUM = "sum"
    LOOKUP = "lookup"
    HEAD = "head"


class Misfit(ValueError):
    """A cut that does not fit a size or a number of ranks."""


@dataclass(frozen=True)
class Segment:
    """A run of indices that is cut evenly. `copies` neighbouring ranks hold the same slice (KV heads fewer than tp)."""

    length: int
    copies: int = 1


@dataclass(frozen=True)
class Cut:
    """How one dimension of a tensor is cut: each segment on its own, every rank taking its part of each.

    `ragged`: parts may differ by one index (vocabularies); else a segment has to divide evenly.
    """

    dim: int
    segments: tuple[Segment, ...]
    ragged: bool = False

    @property
    def size(self) -> int:
        """Length of the whole dimension."""
        return sum(segment.length for segment in self.segments)

    @property
    def overlaps(self) -> bool:
        """True if some slice lies on more than one rank, so that its gradients have to be added."""
        return any(segment.copies > 1 for segment in self.segments)

    def ranges(self, rank: int, ranks: int) -> Iterator[tuple[int, int]]:
        """The `[begin, end)` pieces of the dimension that a rank holds. Raises Misfit if a segment cannot be cut."""
        offset = 0
        for segment in self.segments:
            parts = ranks // segment.copies
            part = rank // segment.copies
            if ranks % segment.copies or (segment.length % parts and not self.ragged):
                raise Misfit(f"{segment.length} indices do not divide by {parts} slices")
            yield offset + part * segment.length // parts, offset + (part + 1) * segment.length // parts
            offset += segment.length

    def scaled(self, size: int) -> Cut:
        """The same cut of a longer or shorter dimension, each segment keeping its share. Raises Misfit."""
        lengths = [segment.length * size for segment in self.segments]
        if any(length % self.size for length in lengths):
            raise Misfit(f"the shares of {self.size} indices are not whole numbers of {size}")
        pairs = zip(self.segments, lengths, strict=True)
        scaled = tuple(Segment(length // self.size, segment.copies) for segment, length in pairs)
        return replace(self, segments=scaled)


@dataclass(frozen=True)
class Share:
    """What becomes of one parameter (or buffer) of a region.

    `cut` None: whole on every rank. `summed`: its gradients on the ranks are parts of the true one. `once`: it is
    added to the sum of the ranks, so only rank 0 may count it. `why` is what was measured.
    """

    cut: Cut | None = None
    summed: bool = False
    once: bool = False
    why: str = ""


class EdgeKind(StrEnum):
    """What an edge does to the last dimension: gather the ranks' slices side by side, or keep the rank's own slice."""

    GATHER = "gather"
    SPLIT = "split"


class Side(StrEnum):
    """Where an edge lies: in front of a module, on its first floating tensor, or behind it."""

    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True)
class Edge:
    """A border inside a region, at one module: in front of it the activation is cut and behind it whole, or reversed.

    Backward reverses it: behind a gather every rank has the whole gradient and keeps its slice; a split's gradients are
    gathered. A module between a gather and a split runs whole on every rank, and its own gradients are whole.
    """

    module: str
    side: Side
    kind: EdgeKind


@dataclass(frozen=True)
class Region:
    """Modules that are computed on slices, by patterns from the model's root (`*` is one name between dots).

    Inputs are copied to the ranks in front of `entries` (identity forward, sum backward) and results are added behind
    `exits` (sum forward, identity backward): Megatron's f and g, arXiv:1909.08053. `outputs` are the positions of the
    exit's tensors that are added. `shares`: parameters by pattern. `settings`: whole numbers that a module of the
    region reads in its forward, with the divisor that makes it run on a slice (`layers.*.self_attn.num_heads`: 2).
    `edges`: where activations inside are gathered and split again (a norm over all heads). `carries`: the exit of an
    earlier region whose result is only ever added to this one's (attention beside the MLP): both are one sum.
    """

    kind: RegionKind
    entries: tuple[str, ...]
    exits: tuple[str, ...]
    shares: Mapping[str, Share]
    settings: Mapping[str, int] = field(default_factory=dict)
    outputs: tuple[int, ...] = (0,)
    units: int = 0
    why: str = ""
    edges: tuple[Edge, ...] = ()
    carries: str = ""


@dataclass(frozen=True)
class Whole:
    """Modules that stay whole on every rank although they have large weights, and what stands in the way."""

    pattern: str
    why: str
    elements: int = 0


@dataclass(frozen=True)
class Sharding:
    """A derived plan for one model at one number of ranks."""

    model: str
    architecture: str
    tp: int
    regions: tuple[Region, ...]
    whole: tuple[Whole, ...] = ()
    sharded_fraction: float = 0.0

    def at(self, tp: int) -> Sharding:
        """The same plan for another number of ranks: what is divided by all ranks is divided by the new number.

        Only a proposal: whether the parts still hold whole heads, a proof says.
        """
        regions = tuple(
            replace(region, settings={name: tp if by == self.tp else by for name, by in region.settings.items()})
            for region in self.regions
        )
        return replace(self, tp=tp, regions=regions)
