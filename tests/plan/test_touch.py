"""What acts on what: regions without a gradient, and pieces of boolean matrices."""

import torch
from torch import nn

from tpscope.plan.inside.pieces import joined
from tpscope.plan.inside.subject import Call
from tpscope.plan.inside.touch import Prober, Trial
from tpscope.plan.inside.units import divisions


class Choice(nn.Module):
    """A router's choice: no gradient comes through it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4, dtype=torch.float64))

    def forward(self, hidden):
        return (hidden @ self.weight.T).argmax(-1, keepdim=True).to(hidden.dtype)


def test_a_region_that_no_gradient_comes_through_has_no_division():
    torch.manual_seed(0)
    hidden = torch.randn(2, 3, 4, dtype=torch.float64)
    touches = Prober(Trial(Choice(), Call((hidden,), {}, 0))).run()
    assert touches.idle == {"weight"}
    assert list(divisions(touches, 2)) == []


def components(hits):
    """Columns that rows join, one set after the other, the plain way."""
    found = [{column} for column in range(hits.shape[1])]
    for row in hits.tolist():
        marked = {column for column, hit in enumerate(row) if hit}
        touched = [piece for piece in found if piece & marked]
        if touched:
            found = [piece for piece in found if not piece & marked] + [set().union(*touched)]
    return {column: min(piece) for piece in found for column in piece}


def test_columns_are_joined_as_rows_mark_them():
    generator = torch.Generator().manual_seed(5)
    for density in (0.02, 0.05, 0.1, 0.3):
        for rows in (0, 1, 7, 20):
            hits = torch.rand(rows, 24, generator=generator) < density
            assert dict(enumerate(joined(hits).tolist())) == components(hits)
