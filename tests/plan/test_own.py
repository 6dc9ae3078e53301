"""Plans for a user's own module, and the edges around a norm that couples all heads."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from own_model import Mixer, make
from torch import nn

import tpscope.plan
from tpscope.errors import UserError
from tpscope.language.sharding import EdgeKind, Side
from tpscope.language.verdict import Verdict
from tpscope.plan.inside.answer import answer, subject_of
from tpscope.plan.inside.prove import prove
from tpscope.plan.result import PlanRequest

pytestmark = pytest.mark.filterwarnings("ignore")
HERE = Path(__file__).parent / "own_model.py"


@pytest.fixture(scope="module")
def case():
    torch.set_num_threads(1)
    module, sample = make()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = tpscope.plan.derive(module, sample, tp=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    return found


def shares(case):
    return {name: share for region in case.plan.regions for name, share in region.shares.items()}


def test_a_module_of_ones_own_is_planned_and_proven(case):
    assert case.proof.verdict is Verdict.EQUAL
    assert case.proof.controls
    assert all(case.proof.controls.values())
    found = shares(case)
    assert found["blocks.*.mixer.asks.weight"].cut.dim == 0
    assert found["blocks.*.mixer.back.weight"].cut.dim == 1
    assert found["blocks.*.mixer.back.bias"].once
    assert [segment.length for segment in found["blocks.*.first.weight"].cut.segments] == [48, 48]
    assert {region.kind.value for region in case.plan.regions} == {"sum", "lookup", "head"}


def test_a_norm_over_all_heads_runs_whole_between_a_gather_and_a_split(case):
    (region,) = [region for region in case.plan.regions if region.exits == ("blocks.*.mixer",)]
    assert [(e.module, e.side, e.kind) for e in region.edges] == [
        ("blocks.*.mixer.calm", Side.INPUT, EdgeKind.GATHER), ("blocks.*.mixer.calm", Side.OUTPUT, EdgeKind.SPLIT),
    ]  # fmt: skip
    assert "blocks.*.mixer.calm.weight" not in region.shares
    subject, _ = subject_of(*make())
    for edges in ((), region.edges[:1], region.edges[1:]):
        broken = tuple(replace(r, edges=edges) if r is region else r for r in case.plan.regions)
        outcome = prove(subject.model, replace(case.plan, regions=broken), subject.known, subject.sample)
        assert not outcome.equal


def test_a_bare_block_without_a_list_of_layers_is_planned():
    found = tpscope.plan.derive(Mixer(), torch.randn(2, 6, 32), tp=4)
    assert found.plan.regions[0].exits == ("",)
    assert found.plan.regions[0].settings == {"heads": 4}


def test_a_module_in_which_nothing_falls_apart_says_so():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.only = nn.Linear(8, 8)

        def forward(self, x):
            return self.only(x).softmax(-1).cumsum(-1)

    with pytest.raises(UserError, match="Whole has no plan at tp 2: nothing is cut"):
        tpscope.plan.derive(Whole(), torch.randn(2, 8))


def test_a_function_in_a_file_gives_the_module_and_what_is_no_pair_is_said():
    assert answer(PlanRequest((2,), make=f"{HERE}:make", controls=False)).cases[0].proof.verdict is Verdict.EQUAL
    said = answer(PlanRequest((2,), make=f"{HERE}:nothing")).error
    assert said.startswith("module: TypeError")
    assert "return (module, sample)" in said
