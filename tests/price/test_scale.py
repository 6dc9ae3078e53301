"""From a few layers to all: exact where a step is linear in its layers, and said where it is not."""

import pytest
from made import collective, memory, operation, trace

from tpscope.language.measured.price import Moved
from tpscope.models.repeat import cut, repeat_of
from tpscope.price.memory import memory_cost
from tpscope.price.scale import misses, scaled

COUNTS = (2, 3, 4)


def step(layers):
    return trace(
        [operation(count=7 * layers), operation(module="lm_head", count=1)],
        [collective(count=5 * layers), collective(phase="loss", kind="all_gather", module="loss")],
        memory(("forward", 10, 3 * layers, 4), ("backward", 10, 2 * layers + 1, 4), after={"forward": 5 * layers}),
        layers=layers,
        views={"forward": 11 * layers + 2},
        moved=[Moved("backward", "all_reduce", 5 * layers, 2 * layers, ["q", "k"])],
    )


def test_what_is_linear_is_scaled_exactly():
    found = scaled([step(2), step(3)], COUNTS, 36, 36)
    whole = step(36)
    assert misses(found, whole) == []
    assert [item.count for item in found.operations] == [252, 1]
    assert [item.count for item in found.collectives] == [180, 1]
    assert found.views == {"forward": 398}
    assert (found.moved[0].issued, found.moved[0].distinct) == (180, 72)


def test_the_peak_may_move_to_another_point_with_more_layers():
    low, high = ("forward", 10, 30, 0), ("forward", 10, 20, 0)
    few = trace(memory=memory(low, high))
    more = trace(memory=memory(("forward", 10, 31, 0), ("forward", 10, 30, 0)))
    peak = memory_cost(scaled([few, more], COUNTS, 10, 10).memory)
    assert peak.peak_bytes == 10 + 20 + 8 * 10
    assert peak.by_category == {"activations": 100, "weights": 10}


def test_a_step_that_is_not_linear_is_seen():
    bent = step(4)
    bent.operations[0].count += 1
    assert misses(scaled([step(2), step(3)], COUNTS, 4, 4), bent) == ["kernels"]
    bent = step(4)
    bent.memory.points[0].held[1] = (1, 99)
    assert misses(scaled([step(2), step(3)], COUNTS, 4, 4), bent) == ["memory"]
    bent = step(4)
    bent.collectives.pop()
    assert misses(scaled([step(2), step(3)], COUNTS, 4, 4), bent) == ["collectives"]


def config(layers, **more):
    return {"num_hidden_layers": layers, **more}


def test_like_layers_repeat_one_by_one():
    repeat = repeat_of(config(36))
    assert (repeat.start, repeat.period, repeat.periods, repeat.end) == (0, 1, 36, 0)
    assert cut(config(36), repeat, 3)["num_hidden_layers"] == 3


def test_a_dense_start_is_kept_and_a_pattern_is_cut_by_whole_periods():
    kinds = (["sliding"] * 5 + ["full"]) * 10 + ["sliding"] * 2
    repeat = repeat_of(config(62, layer_types=kinds))
    assert (repeat.start, repeat.period, repeat.end) == (0, 6, 2)
    small = cut(config(62, layer_types=kinds), repeat, 2)
    assert small["num_hidden_layers"] == 14
    assert small["layer_types"] == (["sliding"] * 5 + ["full"]) * 2 + ["sliding"] * 2
    repeat = repeat_of(config(61, first_k_dense_replace=3))
    assert (repeat.start, repeat.period, repeat.periods) == (3, 1, 58)
    assert cut(config(61, first_k_dense_replace=3), repeat, 2) == config(5, first_k_dense_replace=3)


def test_layers_that_do_not_repeat_are_not_cut():
    assert repeat_of(config(6, layer_types=list("abcdef"))) is None
    assert repeat_of({}) is None


def test_a_text_config_inside_is_the_one_that_is_cut():
    nested = {"text_config": config(20), "vision_config": {"depth": 4}}
    small = cut(nested, repeat_of(nested), 2)
    assert small == {"text_config": config(2), "vision_config": {"depth": 4}}
    assert nested["text_config"] == config(20)


@pytest.mark.parametrize("window", [28, 40])
def test_a_window_that_starts_at_a_layer_starts_at_the_same_place(window):
    whole = config(40, max_window_layers=window)
    repeat = repeat_of(whole)
    if window == 40:
        assert cut(whole, repeat, 3)["max_window_layers"] == 3
    else:
        assert repeat is None or repeat.end + repeat.start >= 12
