"""A step in pipeline stages, from stages made by hand, and from NeMo's own splitter at full size."""

from dataclasses import replace

import pytest
from made import collective, machine, memory, operation, trace

from tpscope.compare.ask import Wishes, question
from tpscope.frameworks import registry
from tpscope.language.layout import Layout
from tpscope.language.measured.stage import Stages, StageTrace
from tpscope.price import hardware
from tpscope.price.pipeline import piped
from tpscope.price.run import Setting, price
from tpscope.price.schedule import Pace, Plan, in_flight, order, seconds

ASKED = type("Asked", (), {"layout": Layout(pp=4, tp=2)})()
PLAN = Plan("1f1b", 8)


def stage(index, like, milliseconds, **more):
    """Forward and backward of equal length, a layer each, 100 bytes of activations a micro-batch."""
    flops = round(milliseconds * 1e-3 * 1e12 / 2)
    both = [operation(phase, flops=flops, kernel=False) for phase in ("forward", "backward")]
    made = [trace(both, memory=memory(("forward", 1000, 100, 500)), layers=1) for _ in range(2)]
    return StageTrace(index, like, [index], [], *made, saved=100, **more)


def priced(*stages, total=4, plan=PLAN, **more):
    return piped(Stages(4, total, "Schedule1F1B", total // 4, list(stages), **more), ASKED, machine(), 1024, plan)


def test_even_stages_leave_the_bubble_of_the_papers():
    found = priced(stage(0, [0, 1, 2, 3], 10.0))
    assert found.time.ms == pytest.approx(8 * 10 * (1 + 3 / 8))
    assert found.pipeline.bubble == pytest.approx(3 / 11, abs=1e-4)


def test_the_slowest_stage_gives_the_pace():
    found = priced(stage(0, [0, 1, 2], 10.0), stage(3, [3], 15.0))
    assert (found.time.ms, found.pipeline.slowest) == (pytest.approx(8 * 15 + 3 * 10), 3)


def test_a_slow_stage_costs_least_where_it_is_waited_for_anyway():
    """Three even stages of 10 and one of 15: between the pace of the slowest alone, and each other waited for once."""
    found = [seconds([Pace(7.5, 7.5) if rank == slow else Pace(5.0, 5.0) for rank in range(4)], 8) for slow in range(4)]
    assert all(8 * 15 < one <= 8 * 15 + 3 * 10 for one in found)
    assert found[0] < found[3] == 8 * 15 + 3 * 10


def test_gpipe_and_1f1b_take_equal_time_in_another_order():
    even = [Pace(1.0, 2.0)] * 4
    assert seconds(even, 8) == seconds(even, 8, all_forwards_first=True) == (8 + 3) * 3.0
    assert order(2, 4, 3, False) == [(True, 0), (True, 1), (False, 0), (True, 2), (False, 1), (False, 2)]
    assert order(2, 4, 3, True)[:3] == [(True, 0), (True, 1), (True, 2)]


def test_two_stages_a_rank_halve_the_bubble():
    one = stage(0, list(range(8)), 5.0)
    one.other.memory.after["backward"] = 700
    found = priced(one, total=8)
    assert found.time.ms == pytest.approx(8 * 10 + 3 * 10 / 2)
    assert found.memory.by_category["other stages of the rank"] == 700
    # (v - 1) p + 2 (p - 1) + 1 forwards of a stage are under way on the first rank.
    assert found.pipeline.stages[0].in_flight == 4 + 2 * 3 + 1


def test_more_micro_batches_are_in_flight_on_earlier_stages_and_all_of_them_under_gpipe():
    stages = Stages(4, 4, "Schedule1F1B")
    assert [in_flight(rank, stages, PLAN) for rank in range(4)] == [4, 3, 2, 1]
    assert in_flight(0, stages, Plan("1f1b", 2)) == 2
    assert in_flight(3, Stages(4, 4, "ScheduleGPipe"), PLAN) == 8
    found = priced(stage(0, [0, 1, 2, 3], 10.0))
    assert found.pipeline.fullest == 0
    assert found.memory.by_category == {"weights": 1000, "optimizer": 500, "activations": 4 * 100}
    assert found.pipeline.stages[3].peak_bytes == 1000 + 500 + 100


def test_what_is_sent_between_stages_is_waited_for_and_buffered():
    without = priced(stage(0, [0, 1, 2, 3], 10.0))
    with_ = priced(stage(0, [0, 1, 2, 3], 10.0, received=10**6, sent=10**6))
    # A megabyte over the link takes a millisecond and starts after one, in each direction.
    assert with_.time.ms - without.time.ms == pytest.approx((8 + 3) * 2 * 2)
    assert with_.memory.peak_bytes - without.memory.peak_bytes == 8 * 2 * 10**6
    assert {(item.kind, item.axis, item.count) for item in with_.collectives} == {("send_recv", "pp", 8)}


def test_what_only_the_first_micro_batch_does_is_counted_once():
    one = stage(0, [0, 1, 2, 3], 10.0)
    one.first.collectives = [collective("forward", "all_gather")]
    one.other.collectives = [collective("forward"), collective("reduce", "reduce_scatter")]
    found = {item.kind: item.count for item in priced(one).collectives}
    assert found == {"all_gather": 1, "all_reduce": 7, "reduce_scatter": 1}


def wanted(layers, **wishes):
    """Llama-3.1-8B at full width with few layers."""
    asked = question("llama-3.1-8b", Wishes(**{"tp": 2, **wishes}))
    return replace(asked, model=replace(asked.model, config={**asked.model.config, "num_hidden_layers": layers}))


@pytest.mark.frameworks
def test_stages_are_nemos_own_and_axolotl_has_no_key_for_them(pool):
    targets = [registry.parse(text) for text in ("nemo@0.7.0", "axolotl@0.19.0")]
    setting = Setting(hardware.machine("h100"), "h100", 1, 1024)
    nemo, axolotl = price(wanted(8, pp=3, dp_shard=2), targets, pool, setting).frameworks
    assert [len(stage.layers) for stage in nemo.pipeline.stages] == [3, 3, 2]
    assert nemo.pipeline.stages[2].layers == [6, 7]
    assert [stage.others for stage in nemo.pipeline.stages] == [["embed_tokens"], [], ["norm", "lm_head"]]
    assert (nemo.time.status, nemo.head.gathered_by) == ("extrapolated", "loss")
    assert {item.axis for item in nemo.collectives} == {"tp", "dp_shard", "pp"}
    assert (axolotl.status.value, "no key for pipeline" in axolotl.error.message) == ("unsupported", True)


@pytest.mark.frameworks
def test_the_smallest_tp_of_stages_is_the_one_at_which_the_fullest_rank_fits(pool):
    nemo, h200 = [registry.parse("nemo@0.7.0")], hardware.machine("h200")

    def asked(machine, tp, **more):
        return price(wanted(4, pp=2, tp=tp), nemo, pool, Setting(machine, "h200", 1, 1024, **more)).frameworks[0]

    one, two = (asked(h200, tp).memory.peak_bytes for tp in (1, 2))
    assert one > two
    for room, smallest in ((one, 1), (two, 2)):
        machine = h200.model_copy(update={"memory_bytes": room + h200.reserved_bytes})
        assert asked(machine, 2, smallest_tp=True).smallest_tp == smallest


@pytest.mark.frameworks
def test_stages_with_sequence_parallelism_and_stages_that_nemo_refuses_have_no_price(pool):
    target, setting = registry.parse("nemo@0.7.0"), Setting(hardware.machine("h100"), "h100", 1, 1024)
    both = price(wanted(8, pp=2, sequence_parallel=True), [target], pool, setting).frameworks[0]
    tied = price(question("llama-3.2-1b", Wishes(tp=2, pp=2)), [target], pool, setting).frameworks[0]
    assert (both.status.value, both.time.ms) == ("unsupported", 0.0)
    assert (tied.status.value, "tie_word_embeddings" in tied.error.message) == ("refused", True)
