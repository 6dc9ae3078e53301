"""Results that are only ever added are one sum over the ranks: found by an experiment, and proven."""

from dataclasses import replace

import pytest

from tpscope.plan import files
from tpscope.plan.inside.answer import default_config
from tpscope.plan.inside.derive import Deriver
from tpscope.plan.inside.prove import prove, reference
from tpscope.plan.inside.subject import Sample, build

pytestmark = pytest.mark.filterwarnings("ignore")


def derived(name):
    model = build(default_config(name), "eager")
    sample = Sample.of(model)
    return model, sample, Deriver(model, sample).derive(2)


@pytest.mark.parametrize(("name", "attention"), [("gptj", "attn"), ("gpt_neox", "attention")])
def test_attention_beside_the_mlp_is_carried_by_it(name, attention):
    model, sample, plan = derived(name)
    carried = {region.exits[0].rpartition(".")[2]: region.carries.rpartition(".")[2] for region in plan.regions}
    assert carried["mlp"] == attention
    found = prove(model, plan, reference(model, sample), sample)
    assert found.equal
    apart = replace(plan, regions=tuple(replace(region, carries="") for region in plan.regions))
    more = prove(model, apart, reference(model, sample), sample)
    assert more.equal
    layers = 2
    shared = 2 if name != "gpt_neox" else 1  # its norms differ: backward has an input for each
    assert more.collectives["all_reduce"] == found.collectives["all_reduce"] + layers * shared
    assert [region.carries for region in files.read(files.write(plan), "plan").regions] == [
        region.carries for region in plan.regions
    ]


def test_attention_in_front_of_the_mlp_is_not_and_would_be_wrong():
    model, sample, plan = derived("llama")
    assert not any(region.carries for region in plan.regions)
    attention = next(region.exits[0] for region in plan.regions if "attn" in region.exits[0])
    forced = replace(
        plan,
        regions=tuple(
            replace(region, carries=attention if region.exits[0].endswith("mlp") else "") for region in plan.regions
        ),
    )
    assert not prove(model, forced, reference(model, sample), sample).equal
