"""The collectives of a trace on fake tensors are those of the same code on two real gloo ranks."""

from collections import Counter

import pytest

pytestmark = pytest.mark.frameworks


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


def both(answer):
    assert answer.error is None, answer.error
    assert answer.value["stopped"] is None, answer.value["stopped"]
    return table(answer.value["real"]), table(answer.value["traced"])


@pytest.mark.parametrize("framework", ["nemo@0.7.0", "axolotl@0.19.0"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-8b", "mistral-7b", "phi-4"])
def test_traced_collectives_are_those_of_two_real_ranks(traffic, model, framework):
    real, traced = both(traffic(model, framework))
    assert real.total() > 4
    assert traced == real


@pytest.mark.parametrize(
    ("framework", "axis", "kinds"),
    [
        ("nemo@0.7.0", "dp_shard", {"all_gather", "reduce_scatter"}),
        ("axolotl@0.19.0", "dp_shard", {"all_gather", "reduce_scatter"}),
        pytest.param("transformers@5.23.0", "dp_shard", {"all_gather", "reduce_scatter"}, marks=pytest.mark.sweep),
        ("nemo@0.7.0+hf", "cp", {"all_gather", "all_to_all", "reduce_scatter"}),
    ],
)
def test_those_of_other_axes_are_too(traffic, framework, axis, kinds):
    real, traced = both(traffic("llama-3.1-8b", framework, tp=1, **{axis: 2}))
    assert traced == real
    assert {kind for _, kind, found, *_ in real if found == axis} == kinds


def test_those_of_sequence_parallelism_too_and_they_are_others(traffic):
    real, traced = both(traffic("qwen3-8b", "nemo@0.7.0", sequence_parallel=True))
    assert traced == real
    assert {kind for _, kind, *_ in real} >= {"all_gather", "reduce_scatter"}
    without, _ = both(traffic("qwen3-8b", "nemo@0.7.0"))
    assert without != real
