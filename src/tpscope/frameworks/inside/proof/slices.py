"""Which part of the whole a rank's tensor is: found by value, not by what a plan claims."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor, Replicate


@dataclass(frozen=True)
class Part:
    """A rank's part of a whole tensor: all of it (`dim` None), or its share along `dim` of each of the `blocks`
    (sizes along that dim; one block: contiguous), or the `pieces` `[begin, end)` that an engine says it holds."""

    dim: int | None = None
    blocks: tuple[int, ...] = ()
    pieces: tuple[tuple[int, int], ...] = ()

    def of(self, whole: torch.Tensor, rank: int, size: int) -> torch.Tensor:
        """The part of `whole` that rank `rank` of `size` holds."""
        if self.dim is None:
            return whole
        if self.pieces:
            return torch.cat([whole.narrow(self.dim, begin, end - begin) for begin, end in self.pieces], self.dim)
        pieces = whole.split(list(self.blocks) or whole.shape[self.dim], self.dim)
        return torch.cat([_share(piece, self.dim, rank, size) for piece in pieces], self.dim)

    def __str__(self) -> str:
        if self.dim is None:
            return "Replicate()"
        return f"Shard(dim={self.dim})" + (f" of {'+'.join(map(str, self.blocks))}" if len(self.blocks) > 1 else "")


WHOLE = Part()


def _share(tensor: torch.Tensor, dim: int, rank: int, size: int) -> torch.Tensor:
    """DTensor's split: equal chunks, the last ones smaller or empty."""
    chunks = tensor.chunk(size, dim)
    return chunks[rank] if rank < len(chunks) else tensor.narrow(dim, 0, 0)


def candidates(local: torch.Size, whole: torch.Size, size: int, blocks: list[tuple[int, ...]]) -> Iterator[Part]:
    """Parts that have the shape of `local`, likeliest first."""
    if local == whole:
        yield WHOLE
    if len(local) != len(whole):
        return
    different = [dim for dim in range(len(whole)) if local[dim] != whole[dim]]
    if len(different) > 1:
        return
    for dim in different or range(len(whole)):
        yield Part(dim)
        for sizes in blocks:
            if sum(sizes) == whole[dim] and all(block % size == 0 for block in sizes):
                yield Part(dim, sizes)


def find(local: torch.Tensor, whole: torch.Tensor, rank: int, size: int, blocks: list[tuple[int, ...]]) -> Part | None:
    """The part of `whole` that `local` is, by value."""
    for part in candidates(local.shape, whole.shape, size, blocks):
        expected = part.of(whole, rank, size)
        if expected.shape == local.shape and torch.equal(expected.to(local.dtype), local):
            return part
    return None


def by_shape(local: torch.Size, whole: torch.Size, size: int) -> Part | None:
    """The likeliest part by shape alone, for tensors whose values are not known."""
    return next((part for part in candidates(local, whole, size, [])), None)


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor."""
    value = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
    # An asynchronous collective's result is a wrapper until somebody waits for it.
    return value.wait() if hasattr(value, "wait") and type(value) is not torch.Tensor else value


def on_this_tp_rank(tensor: torch.Tensor) -> torch.Tensor:
    """What this tp rank holds of a tensor, whatever other axes cut it (a collective of those)."""
    if not isinstance(tensor, DTensor) or tensor.device_mesh.ndim == 1:
        return local_of(tensor)
    names = tensor.device_mesh.mesh_dim_names or ()
    kept = [own if name == "tp" else Replicate() for name, own in zip(names, tensor.placements, strict=True)]
    return local_of(tensor.redistribute(placements=kept))


def on_tp(tensor: torch.Tensor) -> str:
    """Placement of a tensor on the tp axis as it claims it: "" where it makes no claim (other axes may cut it)."""
    if not isinstance(tensor, DTensor):
        return ""
    names = [str(getattr(name, "value", name)) for name in tensor.device_mesh.mesh_dim_names or ("tp",)]
    return str(tensor.placements[names.index("tp")]) if "tp" in names else ""


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a DTensor (a collective of its mesh), or the tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
