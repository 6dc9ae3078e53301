"""Independent pieces: union-find over slices, and into how many pieces one tensor's touches on another fall."""

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
        found = _joined(hits[kept])
        if found > 1:
            break
    return found


def _joined(hits: torch.Tensor) -> int:
    """The pieces that columns fall into if each row of a boolean matrix joins the columns that it marks."""
    left = hits.any(0)
    count = 0
    while bool(left.any()):
        piece = torch.zeros_like(left)
        piece[int(left.nonzero()[0])] = True
        while True:
            more = hits[hits[:, piece].any(1)].any(0)
            if torch.equal(more, piece):
                break
            piece = more
        left = left & ~piece
        count += 1
    return count


class Groups:
    """Union-find."""

    def __init__(self) -> None:
        self._parent: dict[Slice, Slice] = {}

    def root(self, item: Slice) -> Slice:
        """The slice that stands for a group."""
        path = []
        while (parent := self._parent.get(item, item)) != item:
            path.append(item)
            item = parent
        for passed in path:
            self._parent[passed] = item
        return item

    def join(self, one: Slice, other: Slice) -> None:
        """Make two groups one."""
        self._parent[self.root(one)] = self.root(other)
