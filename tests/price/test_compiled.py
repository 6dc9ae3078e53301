"""What NeMo compiles by default is priced as the GPU runs it."""

from dataclasses import replace

import pytest
from made import machine, operation, trace

from tpscope.language.layout import Layout
from tpscope.price.compiled import NORM, as_compiled, calls
from tpscope.price.cost import CPU, parts_of

NORMS = "model.layers.*.input_layernorm"


def single(item):
    return replace(item, dtype="float32")


def step(name):
    return [
        operation(module=NORMS, name=name, count=4, read=100, written=100),
        operation(name="mm", flops=10, count=4),
        *(single(operation("backward", NORMS, "mul", count=8, read=200, written=200)) for _ in range(3)),
        operation("backward", NORMS, "add", count=2, read=7),
        single(operation("backward", name="mul", count=2, read=9)),
    ]


def test_the_backward_of_a_compiled_norm_is_one_kernel():
    found = as_compiled(step(NORM))
    backward = [item for item in found if item.phase == "backward" and item.module == NORMS]
    assert sorted((item.name, item.count) for item in backward) == [("add", 2), ("rms_norm_backward", 4)]
    assert [item.read + item.written for item in found if item.name == "_to_copy"] == [300, 300]
    # What other modules do in single precision stays.
    assert any(item.read == 9 for item in found)


def test_a_norm_that_is_not_compiled_stays_as_it_was_traced():
    assert as_compiled(step("rms_norm")) == step("rms_norm")
    assert (calls(step(NORM)), calls(step("rms_norm"))) == (4, 0)


@pytest.mark.parametrize(("tp", "seconds"), [(2, 4.0), (1, 0.0)])
def test_a_compiled_function_costs_the_cpu_where_parameters_are_dtensors(tp, seconds):
    slow = machine(dispatch__compiled=1.0)
    assert parts_of(trace(step(NORM)), slow, Layout(tp=tp))[CPU]["backward"] == seconds
    assert parts_of(trace(step("rms_norm")), slow, Layout(tp=tp))[CPU]["backward"] == 0.0
