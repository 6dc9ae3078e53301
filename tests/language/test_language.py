"""The nouns: placements as torch prints them, layouts, rules and evidence."""

import pytest

from tpscope.language.evidence import Drift, Evidence, sha256_of
from tpscope.language.layout import Layout
from tpscope.language.placement import PARTIAL, REPLICATE, Placement, collective, shard, strided
from tpscope.language.plan import Plan, Rule, wildcard
from tpscope.language.style import colwise, named, rowwise, vocab_embedding


@pytest.mark.parametrize(
    ("text", "placement"),
    [
        ("Replicate()", REPLICATE),
        ("Shard(dim=0)", shard(0)),
        ("Shard(dim=-1)", shard(-1)),
        ("_StridedShard(dim=0, sf=2)", strided(0, 2)),
        ("_StridedShard(dim=1, split_factor=4)", strided(1, 4)),
        ("Partial(sum)", PARTIAL),
    ],
)
def test_placements_read_as_torch_prints_them(text, placement):
    assert Placement.parse(text) == placement


def test_placements_of_the_installed_torch_are_understood():
    from torch.distributed.tensor import Partial, Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    for value in (Replicate(), Shard(1), Partial(), _StridedShard(0, split_factor=2)):
        assert str(Placement.parse(repr(value))).split("(")[0].strip("_") == type(value).__name__.strip("_")


def test_a_spelling_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="not a placement"):
        Placement.parse("Scatter(dim=0)")


@pytest.mark.parametrize(
    ("source", "target", "name"),
    [
        (PARTIAL, REPLICATE, "all_reduce"),
        (PARTIAL, shard(1), "reduce_scatter"),
        (shard(1), REPLICATE, "all_gather"),
        (shard(1), shard(2), "all_to_all"),
        (REPLICATE, shard(1), ""),
        (shard(1), shard(1), ""),
    ],
)
def test_the_collective_between_two_layouts(source, target, name):
    assert collective(source, target) == name


def test_megatrons_pair_communicates_once_each_way():
    column, row = colwise("c"), rowwise("r")
    assert (column.forward, column.backward) == ((), ("all_reduce",))
    assert (row.forward, row.backward) == (("all_reduce",), ())


def test_with_sequence_parallel_the_pair_gathers_and_scatters():
    column, row = colwise("c", given=shard(1)), rowwise("r", output=shard(1))
    assert (column.forward, column.backward) == (("all_gather",), ("reduce_scatter",))
    assert (row.forward, row.backward) == (("reduce_scatter",), ("all_gather",))


def test_an_embedding_has_no_gradient_to_communicate_backward():
    assert vocab_embedding("e").backward == ()


def test_a_gathered_head_gathers_forward():
    assert named("colwise_gather_output").forward == ("all_gather",)
    assert named("colwise_gather_output").backward == ("all_reduce",)


def test_an_unknown_style_keeps_its_name():
    style = named("SomeStyleOfTomorrow")
    assert (style.name, style.kind, style.known) == ("SomeStyleOfTomorrow", "unknown", False)


def test_world_is_the_product_and_tp_the_fastest_axis():
    layout = Layout(pp=2, dp_shard=4, tp=8)
    assert layout.world == 64
    assert list(layout.sizes) == ["pp", "dp_replicate", "dp_shard", "cp", "tp"]


def test_an_axis_without_ranks_is_refused():
    with pytest.raises(ValueError, match="tp is 0"):
        Layout(tp=0)


def test_the_longest_pattern_decides():
    plan = Plan(
        (Rule("model.layers.*.mlp", named("replicate")), Rule("model.layers.*.mlp.up_proj", named("colwise"))), "hf"
    )
    assert plan.rule_for("model.layers.3.mlp.up_proj.weight").style.name == "colwise"
    assert plan.rule_for("model.layers.3.mlp.gate.weight").style.name == "replicate"
    assert plan.rule_for("model.norm.weight") is None


def test_a_pattern_matches_whole_names_only():
    rule = Rule("model.layers.*.mlp.up", named("colwise"))
    assert not rule.matches("model.layers.0.mlp.up_proj.weight")
    assert not rule.matches("model.layers.0.1.mlp.up.weight")


def test_wildcards_stand_for_numbers_between_dots():
    assert wildcard("model.layers.12.mlp.experts.3.w1.weight") == "model.layers.*.mlp.experts.*.w1.weight"
    assert wildcard("c") == "c"


def test_evidence_derives_its_line_and_notices_drift(tmp_path):
    file = tmp_path / "pkg" / "mod.py"
    file.parent.mkdir()
    file.write_text("first\nsecond line\n")
    evidence = Evidence("pkg", "1", "pkg/mod.py", "f", "second line", sha256_of(file))
    assert evidence.line(tmp_path) == 2
    assert evidence.unchanged(tmp_path)
    file.write_text("first\nsecond lime\n")
    assert not evidence.unchanged(tmp_path)
    with pytest.raises(Drift, match="second line"):
        evidence.line(tmp_path)
