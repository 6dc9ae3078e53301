"""The order of a selection is read off experiments: known selections, and what a wrong one would give."""

import pytest

from tpscope.frameworks.inside.precedence import Input, order, sweep

INPUTS = [
    Input("custom", ("none", "given"), {"given": "a custom plan"}),
    Input("registry", ("absent", "present", "raises"), {"present": "registered", "raises": "its function raises"}),
    Input("hf", ("absent", "present"), {"present": "a _tp_plan"}),
]
FLAG = Input("flag", ("unset", "set"), {"set": "the flag"})


def cascade(state):
    """custom, registry, hf, base: what a later NeMo does."""
    if state["custom"] == "given":
        return "custom"
    if state["registry"] == "present":
        return "optimized"
    if state["hf"] == "present":
        return "hf"
    return "raised: no plan" if state["registry"] == "raises" else "base"


def flagged(state):
    """custom, hf under a flag, registry, base: what an early NeMo does."""
    if state["custom"] == "given":
        return "custom"
    if state["flag"] == "set":
        return "hf" if state["hf"] == "present" else "raised: no plan"
    if state["registry"] == "present":
        return "optimized"
    if state["registry"] == "raises":
        return "hf" if state["hf"] == "present" else "raised: no plan"
    return "base"


def test_a_cascade_is_found():
    steps = order(INPUTS, sweep(INPUTS, cascade), {"custom": "none", "registry": "absent", "hf": "present"}, "hf")
    assert [step.level for step in steps] == ["custom", "optimized", "hf", "base"]
    assert [step.outcome for step in steps] == ["not asked: not so here"] * 2 + ["gave the plan", "not reached"]


def test_a_flag_is_found_and_changes_the_order():
    inputs = [INPUTS[0], FLAG, *INPUTS[1:]]
    actual = {"custom": "none", "flag": "unset", "registry": "absent", "hf": "present"}
    steps = order(inputs, sweep(inputs, flagged), actual, "base")
    assert [step.level for step in steps] == ["custom", "hf", "optimized", "hf", "base"]
    assert steps[1].tried_when == "the flag and a _tp_plan"
    assert "raises" in steps[3].tried_when
    assert steps[4].outcome == "gave the plan"


@pytest.mark.parametrize("first", ["hf", "optimized"])
def test_swapping_two_sources_swaps_the_order(first):
    def choose(state):
        offers = {"hf": state["hf"] == "present", "optimized": state["registry"] == "present"}
        second = "optimized" if first == "hf" else "hf"
        return first if offers[first] else second if offers[second] else "base"

    inputs = INPUTS[1:]
    steps = order(inputs, sweep(inputs, choose), {"registry": "absent", "hf": "absent"}, "base")
    assert steps[0].level == first
