"""Sources are asked in their order, nothing is taken without a proof, and the choice is in the answer."""

from dataclasses import replace

import pytest
import torch

from tpscope.errors import UserError
from tpscope.language.verdict import Verdict
from tpscope.models.read import read
from tpscope.models.shrink import shrink
from tpscope.plan import curated, run
from tpscope.plan.inside.answer import answer
from tpscope.plan.result import Given, PlanRequest, Source

pytestmark = pytest.mark.filterwarnings("ignore")
ALL = (Source.CURATED, Source.SHIPPED, Source.DERIVED)


def chosen(name, *given, sources=ALL, published=False, **changes):
    torch.set_num_threads(1)
    config = read(name)[0].config
    small, two_layers = {**shrink(config, experts=4).config, **changes}, {**config, "num_hidden_layers": 2}
    found = answer(PlanRequest((2,), small, "", two_layers if published else None, False, sources, given))
    assert not found.error, found.error
    return found.cases[0]


def outcomes(case):
    return {item.source: item.outcome for item in case.tried}


def test_a_reviewed_plan_comes_before_the_shipped_one():
    case = chosen("llama-3.1-8b", curated.find("llama"))
    assert (case.source, [item.source for item in case.tried]) == (Source.CURATED, [Source.CURATED])
    assert case.tried[0].taken
    assert case.proof.verdict is Verdict.EQUAL


def test_a_reviewed_plan_that_is_not_proven_for_this_model_is_not_taken():
    case = chosen("qwen2.5-7b", replace(curated.find("llama"), origin="the wrong family's"))
    assert case.source is Source.SHIPPED
    assert "qwen2" not in outcomes(case)[Source.CURATED]
    assert not case.tried[0].taken
    assert case.proof.verdict is Verdict.EQUAL


def test_a_shipped_plan_has_one_entry_a_region_where_that_is_proven():
    case = chosen("granite-3-8b", sources=(Source.SHIPPED,), published=True)
    assert {region.entries for region in case.plan.regions if region.kind == "sum"} == {
        ("model.layers.*.self_attn",), ("model.layers.*.mlp",)
    }  # fmt: skip
    mine, shipped = case.costs
    assert (mine.layer_calls, shipped.layer_calls) == (4, 7)
    hidden = read("granite-3-8b")[0].config["hidden_size"]
    assert mine.layer_bytes == 4 * 2048 * hidden * 2


def test_a_users_own_plan_that_is_wrong_gives_no_plan():
    plan = curated.find("qwen3").plan
    bare = [replace(r, shares={n: replace(s, summed=False) for n, s in r.shares.items()}) for r in plan.regions]
    case = chosen(
        "qwen3-8b", Given(Source.CUSTOM, "mine.yaml", replace(plan, regions=tuple(bare))), sources=(Source.CUSTOM,)
    )
    assert case.proof.verdict is Verdict.DIFFERENT
    assert outcomes(case)[Source.CUSTOM].startswith("different: ")
    assert not any(item.taken and item.outcome.startswith("proven") for item in case.tried)


def test_every_reviewed_plan_says_what_proved_it():
    assert {"llama", "qwen2", "qwen3", "mistral", "phi3", "gemma2"} <= set(curated.names())
    for name in curated.names():
        assert "first proven at" in curated.find(name).origin
    assert curated.find("nothing") is None


def test_a_plan_for_two_ranks_is_proposed_for_four_with_its_divisors():
    plan = curated.find("phi3").plan.at(4)
    assert {by for region in plan.regions for by in region.settings.values()} == {4}


def test_a_source_that_is_not_known_is_one_sentence():
    with pytest.raises(UserError, match="choose one of curated, shipped, derived"):
        run._sources(None, "guessed")
