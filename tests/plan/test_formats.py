"""A plan goes out and comes back; what a format cannot say is refused with the reason."""

from dataclasses import replace
from itertools import pairwise

import pytest

from tpscope.errors import UserError
from tpscope.language.sharding import Cut, Misfit, Region, RegionKind, Segment, Sharding, Share
from tpscope.language.verdict import Verdict
from tpscope.plan import files, formats
from tpscope.plan.result import PlanCase, PlanProof

COLUMN, ROW = Share(Cut(0, (Segment(8),))), Share(Cut(1, (Segment(8),)))
MLP = Region(RegionKind.SUM, ("l.*.mlp",), ("l.*.mlp",), {"l.*.mlp.up.weight": COLUMN, "l.*.mlp.down.weight": ROW})
CLASSES = {"l.*.mlp.up": "Linear", "l.*.mlp.down": "Linear", "l.*.attn.norm": "RMSNorm"}


def case(*regions):
    plan = Sharding("toy", "Toy", 2, regions)
    return PlanCase(2, plan, PlanProof(Verdict.EQUAL), 1.0, classes=CLASSES)


def changed(name, share):
    return replace(MLP, shares={**MLP.shares, name: share})


def test_what_is_written_is_what_is_read():
    fused = Share(Cut(0, (Segment(8), Segment(4, copies=2)), ragged=True), summed=True)
    region = replace(changed("l.*.mlp.up.weight", fused), settings={"l.*.mlp.heads": 2}, outputs=(0, 2))
    region = replace(region, shares={**region.shares, "l.*.mlp.down.bias": Share(once=True)})
    plan = case(region).plan
    assert files.read(files.write(plan), "x.yaml") == plan


@pytest.mark.parametrize("text", ["", "a: [", "schema: other/1", "schema: tpscope.sharding/1\nregions: 3"])
def test_what_is_no_plan_is_one_sentence(text):
    with pytest.raises(UserError, match=r"x\.yaml"):
        files.read(text, "x.yaml")


def test_plain_columns_and_rows_come_over():
    assert '"l.*.mlp.up": "colwise"' in formats.write(case(MLP), "transformers").text
    text = formats.write(case(MLP), "torch").text
    assert '"l.*.mlp.down": RowwiseParallel()' in text
    compile(text, "plan.py", "exec")


@pytest.mark.parametrize(
    ("region", "reason"),
    [
        (replace(MLP, settings={"l.*.mlp.heads": 2}), "divided by 2"),
        (changed("l.*.mlp.up.weight", Share(Cut(0, (Segment(8), Segment(8))))), "fused"),
        (changed("l.*.mlp.up.weight", Share(Cut(0, (Segment(8, copies=2),)))), "several ranks"),
        (changed("l.*.attn.norm.weight", Share(summed=True)), "gradient of l.*.attn.norm.weight has to be summed"),
        (changed("l.*.mlp.up.table", COLUMN), "weights of its own"),
    ],
)
def test_what_torch_cannot_say_is_refused_with_the_reason(region, reason):
    with pytest.raises(UserError) as caught:
        formats.write(case(region), "torch")
    assert reason in str(caught.value)
    other = replace(MLP, exits=("l.*.other",))
    assert reason in formats.write(case(region, other), "torch").refused["l.*.mlp"]


def test_transformers_has_a_style_for_a_summed_gradient():
    region = changed("l.*.attn.norm.weight", Share(summed=True))
    assert '"l.*.attn.norm": "replicated_with_grad_allreduce"' in formats.write(case(region), "transformers").text


def test_a_cut_covers_its_dimension_once():
    cut = Cut(0, (Segment(8), Segment(4)))
    pieces = sorted(piece for rank in range(4) for piece in cut.ranges(rank, 4))
    assert pieces[0][0] == 0
    assert pieces[-1][1] == cut.size
    assert all(a[1] == b[0] for a, b in pairwise(pieces))
    with pytest.raises(Misfit):
        list(cut.ranges(0, 3))
    assert [list(Cut(0, (Segment(7),), ragged=True).ranges(rank, 2)) for rank in (0, 1)] == [[(0, 3)], [(3, 7)]]


def test_a_cut_scales_with_its_dimension_or_says_that_it_does_not():
    assert Cut(0, (Segment(2), Segment(1))).scaled(12) == Cut(0, (Segment(8), Segment(4)))
    with pytest.raises(Misfit):
        Cut(0, (Segment(2), Segment(1))).scaled(10)
