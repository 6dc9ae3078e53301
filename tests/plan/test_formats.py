"""A plan goes out and comes back; other formats get the nearest rules that are right, at a stated cost."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from tpscope.errors import UserError
from tpscope.language.sharding import (
    Cut,
    Edge,
    EdgeKind,
    Misfit,
    Region,
    RegionKind,
    Segment,
    Sharding,
    Share,
    Side,
)  # fmt: skip
from tpscope.language.verdict import Verdict
from tpscope.models.read import read
from tpscope.models.shrink import shrink
from tpscope.plan import curated, files, foreign, formats
from tpscope.plan.inside.prove import prove, reference
from tpscope.plan.inside.spell import spell
from tpscope.plan.inside.subject import Sample, build
from tpscope.plan.inside.translate import translate
from tpscope.plan.result import Kind, PlanCase, PlanProof, Spelled, Spelling

pytestmark = pytest.mark.filterwarnings("ignore")
COLUMN, ROW = Share(Cut(0, (Segment(8),))), Share(Cut(1, (Segment(8),)))
MLP = Region(RegionKind.SUM, ("l.*.mlp",), ("l.*.mlp",), {"l.*.mlp.up.weight": COLUMN, "l.*.mlp.down.weight": ROW})


def case(*rules, refused=None):
    plan = Sharding("toy", "Toy", 2, (MLP,))
    return PlanCase(2, plan, PlanProof(Verdict.EQUAL), 1.0, spelling=Spelling(list(rules), {}, refused or {}))


def test_what_is_written_is_what_is_read():
    fused = Share(Cut(0, (Segment(8), Segment(4, copies=2)), ragged=True), summed=True)
    region = replace(MLP, shares={**MLP.shares, "l.*.mlp.up.weight": fused, "l.*.mlp.down.bias": Share(once=True)})
    edge = Edge("l.*.mlp.norm", Side.INPUT, EdgeKind.GATHER)
    region = replace(region, settings={"l.*.mlp.heads": 2}, outputs=(0, 2), edges=(edge,))
    plan = Sharding("toy", "Toy", 2, (region,))
    assert files.read(files.write(plan), "x.yaml") == plan


@pytest.mark.parametrize("text", ["", "a: [", "schema: other/1", "schema: tpscope.sharding/1\nregions: 3"])
def test_what_is_no_plan_is_one_sentence(text):
    with pytest.raises(UserError, match=r"x\.yaml"):
        files.read(text, "x.yaml")


@pytest.mark.parametrize("form", ["transformers", "torch", "nemo"])
def test_a_written_file_is_read_back_as_the_same_rules(form, tmp_path):
    rules = [Spelled("l.*.up", Kind.COLUMN, ""), Spelled("l.*.down", Kind.ROW, ""), Spelled("l.*.x", Kind.GATHERED, "")]
    file = tmp_path / "plan.py"
    file.write_text(formats.write(case(*rules), form).text)
    compile(file.read_text(), "plan.py", "exec")
    again = foreign.read(f"{file}:{formats.NAMES[form]}").given.rules
    assert [(rule.pattern, rule.kind) for rule in again] == [(rule.pattern, rule.kind) for rule in rules]


def test_a_plan_of_which_nothing_can_be_said_is_refused_with_the_reason():
    with pytest.raises(UserError, match=r"l\.\*\.mlp: it is fused"):
        formats.write(case(refused={"l.*.mlp": "it is fused"}), "torch")


def test_what_the_model_ships_and_the_plan_does_not_say_is_switched_off():
    given = case(Spelled("a", Kind.COLUMN, ""))
    given.spelling.shipped = ["a", "b"]
    text = formats.write(given, "transformers").text
    assert '"a": "colwise"' in text
    assert '"b": "replicate"' in text


class Written:
    """A curated plan as rules of a format, with the proof that chose them."""

    def __init__(self, name, form):
        torch.set_num_threads(1)
        spec = read(name)[0]
        self.model = build(shrink(spec.config).config, "eager")
        self.sample = Sample.of(self.model)
        self.known = reference(self.model, self.sample)
        self.plan = curated.find(spec.config["model_type"]).plan
        classes = {wild: kind for wild, kind in _classes(self.model)}
        self.found = spell(self.model, self.plan, form, classes, self.proof)

    def proof(self, plan):
        return prove(self.model, plan, self.known, self.sample)

    def kinds(self):
        return {rule.pattern.rpartition(".")[2]: rule.kind for rule in self.found.rules}


def _classes(model):
    from tpscope.language.plan import wildcard

    return [(wildcard(name), type(module).__name__) for name, module in model.named_modules()]


def test_fused_projections_are_gathered_where_a_format_knows_no_segments():
    written = Written("phi-3-mini", "torch")
    assert written.kinds()["qkv_proj"] is Kind.GATHERED
    assert written.kinds()["o_proj"] is Kind.SPLIT
    assert "gathered" in written.found.dearer["model.layers.*.self_attn"]
    again = translate(written.model, written.found.rules, 2)
    assert written.proof(again.plan).equal
    plain = [replace(rule, kind=Kind.COLUMN) if rule.kind is Kind.GATHERED else rule for rule in written.found.rules]
    assert not written.proof(translate(written.model, plain, 2).plan).equal


@pytest.mark.parametrize(("form", "norm"), [("transformers", Kind.SUM), ("nemo", Kind.SUM), ("torch", None)])
def test_a_summed_gradient_is_said_where_there_is_a_style_for_it_and_gathered_around_where_not(form, norm):
    written = Written("qwen3-8b", form)
    assert written.kinds().get("q_norm") is norm
    assert ("model.layers.*.self_attn" in written.found.dearer) is (norm is None)
    assert not written.found.refused


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
