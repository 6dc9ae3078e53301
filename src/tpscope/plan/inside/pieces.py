"""Independent pieces: which slices belong together, and into how many pieces one tensor's touches on another fall."""

from __future__ import annotations

from collections import Counter

import torch

from tpscope.plan.inside.touch import Touches

Slice = tuple[str, int]
# How many kinds of slices (KV weights, their biases) may be shared by ranks at most.
MOST_LEVELS = 8


def pieces(touches: Touches, name: str, dim: int, other: str, axis: int) -> int:
    """Into how many independent pieces the touches of one tensor's slices on another's fall; 0 if there are none.

    Slices that act on more than most do are left out, up to half of them, while all is one piece: ranks may share them
    (one KV head in a fused weight).
    """
    rows = [(row.index, row.hits[other][axis]) for row in touches.rows.get((name, dim), ()) if other in row.hits]
    if not rows:
        return 0
    standing = Counter(touches.same.get((name, dim), {}).values())
    slices = torch.tensor([1 + standing[index] for index, _ in rows])
    hits = torch.stack([hit for _, hit in rows])
    counts = hits.sum(1)
    found = 1
    for most in sorted(set(counts.tolist()), reverse=True)[:MOST_LEVELS]:
        kept = counts <= most
        if 2 * int(slices[kept].sum()) < int(slices.sum()):
            break
        among = hits[kept]
        found = len(joined(among)[among.any(0)].unique())
        if found > 1:
            break
    return found


def joined(hits: torch.Tensor) -> torch.Tensor:
    """The piece of each column, by its least one, if each row of a boolean matrix joins the columns that it marks."""
    count = hits.shape[1]
    pieces = torch.arange(count, dtype=torch.int32)
    while len(hits):
        least = torch.where(hits, pieces, count).amin(1)
        more = torch.minimum(pieces, torch.where(hits, least[:, None], count).amin(0).to(torch.int32))
        if torch.equal(more, pieces):
            break
        pieces = more
    return pieces
