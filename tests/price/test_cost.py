"""Time: rooflines, rings, and a queue that the CPU fills."""

from dataclasses import replace

import pytest
from made import collective, machine, operation, trace

from tpscope.errors import UserError
from tpscope.language.layout import Layout
from tpscope.price import hardware
from tpscope.price.cost import BESIDE, CPU, collective_seconds, kernel_seconds, link_of, queued, step_time, wire_bytes

TP2 = Layout(tp=2)


def test_a_kernel_takes_the_longer_of_its_arithmetic_and_its_traffic():
    busy = operation(flops=10**12, read=10)
    hungry = operation(flops=10, read=6 * 10**8, written=4 * 10**8)
    assert kernel_seconds(busy, machine()) == pytest.approx(1.0)
    assert kernel_seconds(hungry, machine()) == pytest.approx(1.0)


def test_attention_reaches_its_own_part_of_the_peak_and_its_backward_another():
    forward = operation(name="_scaled_dot_product_flash_attention_for_cpu", flops=10**12)
    backward = operation(name="_scaled_dot_product_flash_attention_for_cpu_backward", flops=10**12)
    assert kernel_seconds(forward, machine()) == pytest.approx(2.0)
    assert kernel_seconds(backward, machine()) == pytest.approx(4.0)


def test_one_tensor_of_a_list_costs_no_launch_of_its_own():
    gap = machine(dispatch__gap=1.0)
    assert kernel_seconds(operation(kernel=True), gap) - kernel_seconds(operation(kernel=False), gap) == 1.0


@pytest.mark.parametrize(("kind", "share"), [("all_reduce", 1.5), ("all_gather", 0.75), ("broadcast", 1.0)])
def test_a_ring_of_four_sends_its_share_of_the_payload(kind, share):
    assert wire_bytes(collective(kind=kind, size=1000, ranks=4)) == 1000 * share


def test_an_axis_that_leaves_the_domain_goes_over_the_network():
    wide = Layout(tp=8, dp_shard=2)
    assert link_of(machine(), wide, "tp") == machine().link
    assert link_of(machine(), wide, "dp_shard") == machine().network
    item = collective(size=10**9)
    assert collective_seconds(item, machine(), TP2) == pytest.approx(1.001)


def test_a_ring_has_as_many_adapters_as_it_has_ranks_in_a_machine():
    """One of eight GPUs in each machine sends through its own adapter; all eight share eight, up to the link."""
    one = collective("forward", "all_gather", size=10**9, ranks=2)
    apart = collective_seconds(replace(one, axis="dp_shard"), machine(), Layout(tp=8, dp_shard=2))
    assert apart == pytest.approx(0.01 + 0.5e9 / 1e8)
    all_ = replace(one, axis="dp_shard", ranks=16)
    together = collective_seconds(all_, machine(), Layout(dp_shard=16))
    assert together == pytest.approx(0.01 + (15 / 16) * 1e9 / 8e8)
    # What goes from one rank to the next has one adapter.
    sent = replace(one, kind="send_recv", axis="pp", ranks=2)
    assert collective_seconds(sent, machine(), Layout(pp=16)) == pytest.approx(0.01 + 1e9 / 1e8)


def test_a_flattened_axis_lies_where_its_parts_do():
    wide = Layout(tp=2, cp=2, dp_shard=4)
    assert link_of(machine(), wide, "cp") == machine().link
    assert link_of(machine(), wide, "dp_shard_cp") == machine().network
    assert link_of(machine(), Layout(tp=2, cp=2, dp_shard=2, pp=4), "dp_shard_cp") == machine().link


def test_the_cpu_hides_behind_the_gpu_where_it_is_faster():
    seconds, bound = queued({"compute": {"forward": 2.0}, CPU: {"forward": 1.0}})
    assert (seconds, bound) == (2.0, {"forward": "compute"})


def test_a_slow_cpu_is_waited_for():
    seconds, bound = queued({"compute": {"forward": 1.0}, CPU: {"forward": 2.0}})
    assert (seconds, bound) == (2.0, {"forward": CPU})


def test_a_cpu_that_is_ahead_in_one_phase_may_be_slow_in_the_next():
    parts = {"compute": {"forward": 5.0, "backward": 1.0}, CPU: {"forward": 1.0, "backward": 3.0}}
    seconds, bound = queued(parts)
    assert seconds == 6.0
    assert seconds < max(5.0, 1.0) + max(1.0, 3.0)
    assert bound["backward"] == "compute"


def test_what_fsdp_sends_runs_beside_the_kernels_until_it_takes_longer_than_they_do():
    hidden = {"compute": {"forward": 3.0}, BESIDE: {"forward": 2.0}}
    assert queued(hidden) == (3.0, {"forward": "compute"})
    longer = {"compute": {"forward": 3.0}, BESIDE: {"forward": 5.0}}
    assert queued(longer) == (5.0, {"forward": BESIDE})
    exposed = {"compute": {"forward": 3.0}, "exposed communication": {"forward": 2.0}}
    assert queued(exposed)[0] == 5.0


def test_views_and_dtensor_cost_the_cpu_and_not_the_gpu():
    slow = machine(dispatch__view=1.0, dispatch__dtensor=10.0)
    time = step_time(trace(views={"forward": 3}, dispatches={"forward": 2}), slow, TP2, 8)
    assert time.ms == pytest.approx(23_000)
    assert next(part for part in time.parts if part.name == CPU).ms == pytest.approx(23_000)


def test_a_price_beyond_what_was_measured_is_extrapolated():
    measured = {"date": "", "rows": (), "torch": "", "tp": (2,), "tokens": (2048, 8192), "constants": {}}
    calibrated = machine().model_copy(update={"calibrated": hardware.Calibrated(**measured)})
    assert calibrated.standing(TP2, 4096) == "calibrated"
    assert calibrated.standing(TP2, 16384) == "extrapolated"
    assert calibrated.standing(Layout(tp=4), 4096) == "extrapolated"
    assert calibrated.standing(Layout(tp=2, pp=2), 4096) == "extrapolated"
    assert machine().standing(TP2, 4096) == "uncalibrated"


def test_unknown_hardware_names_the_closest_and_the_fields(tmp_path):
    with pytest.raises(UserError, match=r"did you mean h200.*memory_bytes"):
        hardware.machine("h20")
    file = tmp_path / "mine.toml"
    file.write_text('title = "mine"\n')
    with pytest.raises(UserError, match="source: field required"):
        hardware.machine(str(file))
    with pytest.raises(UserError, match="no such file"):
        hardware.machine("nowhere.toml")


def test_every_machine_that_comes_with_tpscope_can_be_read():
    assert {"h200", "h100", "a100", "l40s-pcie"} <= set(hardware.names())
    for name in hardware.names():
        assert hardware.machine(name).memory_bytes > 40 * 2**30
