"""The collectives of a trace on fake tensors are those of the same code on two real gloo ranks."""

from collections import Counter

import pytest

from tpscope.compare.ask import Wishes, question
from tpscope.compare.run import Pool
from tpscope.frameworks import registry
from tpscope.models.shrink import shrink

pytestmark = pytest.mark.frameworks


@pytest.fixture(scope="module")
def pool():
    with Pool(lambda kind, text: None) as made:
        yield made


def table(collectives):
    return Counter(
        {
            (
                item["phase"],
                item["kind"],
                item["axis"],
                item["module"],
                item["dtype"],
                item["bytes"],
                item["ranks"],
            ): item["count"]
            for item in collectives
        }
    )


def both(pool, model, framework, **wishes):
    target = registry.parse(framework)
    asked = question(model, Wishes(tp=2, **wishes))
    options = {"batch": 1, "sequence": 32, "config": shrink(asked.model.config).config}
    answer = pool.experiment("traffic", asked, target, options)
    assert answer.error is None, answer.error
    assert answer.value["stopped"] is None, answer.value["stopped"]
    return table(answer.value["real"]), table(answer.value["traced"])


@pytest.mark.parametrize("framework", ["nemo@0.7.0", "axolotl@0.19.0"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-8b", "mistral-7b", "phi-4"])
def test_traced_collectives_are_those_of_two_real_ranks(pool, model, framework):
    real, traced = both(pool, model, framework)
    assert real.total() > 4
    assert traced == real


def test_those_of_sequence_parallelism_too_and_they_are_others(pool):
    real, traced = both(pool, "qwen3-8b", "nemo@0.7.0", sequence_parallel=True)
    assert traced == real
    assert {kind for _, kind, *_ in real} >= {"all_gather", "reduce_scatter"}
    without, _ = both(pool, "qwen3-8b", "nemo@0.7.0")
    assert without != real
