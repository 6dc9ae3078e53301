"""A plan is derived from what weights do, not from what they are called; each claim beside one that must fail."""

from dataclasses import replace

import pytest
import torch

from tpscope.language.sharding import Cut, Segment
from tpscope.language.verdict import Verdict
from tpscope.models.read import read
from tpscope.models.shrink import shrink
from tpscope.plan.inside.answer import answer, default_config
from tpscope.plan.inside.derive import Deriver
from tpscope.plan.inside.prove import prove, reference
from tpscope.plan.inside.subject import Sample, build
from tpscope.plan.result import PlanRequest

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


class Probed:
    """A small model of a catalog entry, its reference, and plans by number of ranks."""

    def __init__(self, name, **changes):
        self.model = build({**shrink(read(name)[0].config, experts=4).config, **changes}, "eager")
        self.deriver = Deriver(self.model)
        self.known = reference(self.model, Sample.of(self.model))

    def plan(self, ranks):
        return self.deriver.derive(ranks)

    def outcome(self, plan):
        return prove(self.model, plan, self.known, Sample.of(self.model))


@pytest.fixture(scope="module")
def qwen():
    return Probed("qwen3-8b")


def share(plan, ending):
    return next(share for region in plan.regions for name, share in region.shares.items() if name.endswith(ending))


def test_columns_and_rows_are_found(qwen):
    plan = qwen.plan(2)
    assert share(plan, "q_proj.weight").cut.dim == 0
    assert share(plan, "o_proj.weight").cut.dim == 1
    assert share(plan, "down_proj.weight").cut.dim == 1
    assert qwen.outcome(plan).equal


def test_a_norm_that_all_heads_share_needs_a_sum_and_the_proof_sees_it_missing(qwen):
    plan = qwen.plan(4)
    assert share(plan, "q_norm.weight").summed
    assert not share(plan, "q_proj.weight").summed
    broken = tuple(
        replace(region, shares={n: replace(s, summed=False) for n, s in region.shares.items()})
        for region in plan.regions
    )
    outcome = qwen.outcome(replace(plan, regions=broken))
    assert not outcome.equal
    assert outcome.wrong
    assert all("_norm" in name for name in outcome.wrong)


def test_more_ranks_than_kv_heads_share_kv_heads(qwen):
    plan = qwen.plan(16)
    assert share(plan, "k_proj.weight").cut.segments == (Segment(64, copies=2),)
    assert share(plan, "q_proj.weight").cut.segments == (Segment(256),)
    assert share(plan, "v_proj.weight").summed
    assert qwen.outcome(plan).equal


def test_ranks_that_divide_nothing_get_no_plan_for_the_attention_and_are_told_why(qwen):
    plan = qwen.plan(5)
    assert not any("self_attn" in region.exits[0] for region in plan.regions)
    assert any("do not divide by 5 ranks" in item.why for item in plan.whole)


def test_a_fused_weight_falls_into_the_segments_that_the_code_splits_it_into():
    probed = Probed("phi-3-mini")
    plan = probed.plan(2)
    assert len(share(plan, "qkv_proj.weight").cut.segments) == 3
    assert len(share(plan, "gate_up_proj.weight").cut.segments) == 2
    assert probed.outcome(plan).equal
    wrong = Cut(0, (Segment(share(plan, "gate_up_proj.weight").cut.size),))
    broken = tuple(
        replace(r, shares={n: replace(s, cut=wrong) if "gate_up" in n else s for n, s in r.shares.items()})
        for r in plan.regions
    )
    assert not probed.outcome(replace(plan, regions=broken)).equal


def test_tied_weights_are_cut_as_one():
    probed = Probed("llama-3.2-1b")
    assert probed.model.lm_head.weight is probed.model.model.embed_tokens.weight
    plan = probed.plan(2)
    assert {region.kind.value for region in plan.regions} == {"sum", "lookup", "head"}
    assert probed.outcome(plan).equal


def test_a_vocabulary_that_does_not_divide_is_cut_unevenly():
    probed = Probed("qwen3-0.6b", vocab_size=301)
    plan = probed.plan(4)
    assert share(plan, "embed_tokens.weight").cut.ragged
    assert probed.outcome(plan).equal


def test_fused_experts_are_cut_inside_and_a_bias_behind_them_counts_once():
    probed = Probed("gpt-oss-20b")
    plan = probed.plan(2)
    assert share(plan, "experts.gate_up_proj").cut.dim == 2
    assert share(plan, "experts.down_proj").cut.dim == 1
    assert share(plan, "experts.down_proj_bias").once
    assert share(plan, "router.weight").summed
    assert share(plan, "sinks").cut.dim == 0
    assert probed.outcome(plan).equal


def test_what_cannot_be_built_is_an_answer_that_names_the_step():
    found = answer(PlanRequest((2,), {"model_type": "no-such-model"}))
    assert found.cases == []
    assert found.error.startswith("model: ValueError")


def test_the_answer_has_a_proof_and_controls_that_were_found():
    small = shrink(read("llama-3.2-1b")[0].config).config
    (case,) = answer(PlanRequest((2,), small, published=read("llama-3.2-1b")[0].config)).cases
    assert case.proof.verdict is Verdict.EQUAL
    assert case.proof.controls
    assert all(case.proof.controls.values())
    assert not case.misfit
    assert case.fraction > 0.999


def test_biases_of_shared_heads_are_shared_with_them():
    probed = Probed("glm-4-9b")
    plan = probed.plan(4)
    assert share(plan, "v_proj.bias").cut.segments == (Segment(16, copies=2),)
    assert not share(plan, "q_proj.bias").cut.overlaps
    assert probed.outcome(plan).equal


def test_one_kv_head_in_a_fused_weight_is_on_every_rank():
    (case,) = answer(PlanRequest((2,), default_config("gpt_bigcode"), controls=False)).cases
    found = share(case.plan, "c_attn.weight")
    assert found.cut.segments == (Segment(96), Segment(16, copies=2))
    assert found.summed
    assert case.proof.verdict is Verdict.EQUAL
