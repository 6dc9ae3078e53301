"""A framework's style in normal form says what goes in and out, as the style's own layouts have it."""

import pytest
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

from tpscope.frameworks.inside.normal import normal


def layouts(style):
    found = normal(style)
    return str(found.input), str(found.output)


@pytest.mark.parametrize(
    ("style", "wanted", "forward"),
    [
        (RowwiseParallel(), ("Shard(dim=2)", "Replicate()"), ("all_reduce",)),
        (RowwiseParallel(output_layouts=Shard(1)), ("Shard(dim=2)", "Shard(dim=1)"), ("reduce_scatter",)),
        (ColwiseParallel(), ("Replicate()", "Shard(dim=2)"), ()),
        (ColwiseParallel(input_layouts=Shard(1)), ("Shard(dim=1)", "Shard(dim=2)"), ("all_gather",)),
        (ColwiseParallel(output_layouts=Replicate()), ("Replicate()", "Replicate()"), ("all_gather",)),
        (ColwiseParallel(output_layouts=Shard(-1)), ("Replicate()", "Shard(dim=2)"), ()),
    ],
    ids=str,
)
def test_layouts_that_are_given_are_kept_and_others_are_the_style_s_own(style, wanted, forward):
    assert layouts(style) == wanted
    assert normal(style).forward == forward
