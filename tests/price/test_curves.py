"""Curves of seconds by size: drawn through rows of single kernels, and read between them."""

import pytest
from made import collective, machine, operation

from tpscope.language.layout import Layout
from tpscope.price import alone, curves
from tpscope.price.cost import collective_seconds, kernel_seconds
from tpscope.price.measured import Calibration

LINE = ((1e6, 1e-5), (1e8, 1e-3), (1e9, 5e-3))


def single(kind, ms, **size):
    return Calibration(kind=kind, size=size, milliseconds=ms)


def test_a_curve_gives_back_its_points_and_a_power_of_the_size_between_them():
    assert [curves.seconds(LINE, size) for size, _ in LINE] == pytest.approx([taken for _, taken in LINE])
    assert curves.seconds(LINE, 1e7) == pytest.approx(1e-4)
    assert curves.seconds(LINE, 3e8) != pytest.approx(3e-3)


def test_outside_of_a_curve_the_rate_of_its_end_goes_on():
    assert curves.seconds(LINE, 2e9) == pytest.approx(10e-3)
    assert curves.seconds(LINE, 1e5) == pytest.approx(1e-6)


def test_one_row_that_was_disturbed_does_not_move_a_curve():
    quiet = [(1e9, 1e-3), (1.01e9, 1.01e-3)]
    assert curves.drawn([*quiet, (1.02e9, 9e-3)])[0][1] == pytest.approx(1.01e-3, rel=0.02)
    assert curves.drawn([*quiet, (1.02e9, 9e-3), (1.03e9, 9e-3), (1.04e9, 9e-3)])[0][1] > 5e-3


def test_a_message_needs_no_more_than_a_larger_one():
    assert curves.rising(((1.0, 2.0), (2.0, 9.0), (4.0, 3.0))) == ((1.0, 2.0), (2.0, 3.0), (4.0, 3.0))


@pytest.mark.parametrize(
    ("name", "flops", "read", "kind"),
    [
        ("mm", 10, 4, curves.PRODUCT),
        ("_scaled_dot_product_flash_attention_for_cpu", 10, 4, curves.ATTENTION),
        ("_scaled_dot_product_flash_attention_for_cpu_backward", 10, 4, curves.ATTENTION_BACKWARD),
        ("_to_copy", 0, 2, curves.CAST),
        ("_to_copy", 0, 4, curves.ELEMENTWISE),
        ("_log_softmax", 0, 4, curves.SOFTMAX),
        ("mean", 0, 4, curves.REDUCTION),
        ("nemo_automodel::float32_rms_norm", 0, 4, curves.NORM),
        ("mul", 0, 4, curves.ELEMENTWISE),
    ],
)
def test_every_operator_has_a_curve(name, flops, read, kind):
    assert curves.kind_of(name, flops, read, 4) == kind


def test_rows_of_kernels_are_found_again_and_rows_of_launches_are_not_used():
    rows = [
        single("dispatch", 0.01, op="eager_add"),
        *(single("matmul", ms, m=1000, n=1000, k=k) for k, ms in ((100, 0.02), (10**4, 0.1), (10**5, 1.0))),
        *(single("memory", ms, op="add", bytes=size) for size, ms in ((10**3, 0.01), (10**8, 0.1))),
    ]
    found = alone.drawn(rows)
    assert found[curves.PRODUCT] == (pytest.approx((2e10, 1e-4)), pytest.approx((2e11, 1e-3)))
    assert found[curves.ELEMENTWISE] == (pytest.approx((1e8, 1e-4)),)
    # Without a row that says what a launch costs, all are kernels.
    assert len(alone.drawn(rows[1:])[curves.PRODUCT]) == 3


def test_the_backward_of_attention_is_what_both_take_more_than_the_forward():
    size = {"sequence": 8192, "heads": 4, "kv_heads": 1, "head_dim": 128}
    rows = [
        single("attention", 1.0, **size, **{"pass": "forward"}),
        single("attention", 4.0, **size, **{"pass": "forward+backward"}),
    ]
    flops = 2.0 * 8192**2 * 128 * 4
    assert alone.drawn(rows) == {
        curves.ATTENTION: (pytest.approx((flops, 1e-3)),),
        curves.ATTENTION_BACKWARD: (pytest.approx((2.5 * flops, 3e-3)),),
    }


def test_a_fused_optimizer_goes_at_the_rate_of_its_largest_step():
    rows = [
        single("optimizer", ms, op="adamw", way=way, numbers=numbers, tensors=16)
        for way, numbers, ms in (("fused", 10**6, 0.5), ("fused", 10**9, 8.0), ("foreach", 10**9, 16.0))
    ]
    measured = machine().with_curves(alone.drawn(rows))
    one = operation("step", name="_fused_adamw_", read=8 * 10**6, written=8 * 10**6, kernel=False)
    assert kernel_seconds(one, measured) == pytest.approx(8e-6)
    # Any other kernel of that size has no curve here.
    assert kernel_seconds(operation("step", read=16 * 10**6), measured) == pytest.approx(16e-3)


def test_costs_of_the_cpu_are_told_apart():
    rows = [
        single("dispatch", ms, op=op)
        for op, ms in (("eager_add", 0.005), ("dtensor_add", 0.065), ("module_call", 0.003),
                       ("functional_all_reduce", 0.305))
    ]  # fmt: skip
    assert alone.constants(rows) == pytest.approx(
        {"dispatch.operator": 5e-6, "dispatch.dtensor": 60e-6, "dispatch.module": 3e-6, "dispatch.collective": 300e-6}
    )


def test_a_kernel_takes_what_was_measured_at_its_size_and_longer_in_a_step():
    measured = machine().with_curves({curves.ELEMENTWISE: LINE, curves.PRODUCT: LINE})
    assert kernel_seconds(operation(read=10**8), measured) == pytest.approx(1e-3)
    assert kernel_seconds(operation(read=10**8), machine()) == pytest.approx(0.1)
    longer = measured.with_constants({"sustained.traffic": 1.5})
    assert kernel_seconds(operation(read=10**8), longer) == pytest.approx(1.5e-3)
    assert kernel_seconds(operation(flops=10**8, read=1), longer) == pytest.approx(1e-3)


def test_a_collective_takes_what_two_ranks_took_to_send_as_much():
    measured = machine().with_curves({"all_reduce": LINE})
    assert collective_seconds(collective(size=10**8, ranks=2), measured, Layout(tp=2)) == pytest.approx(1e-3)
    four = collective(size=10**8, ranks=4)
    assert collective_seconds(four, measured, Layout(tp=4)) == pytest.approx(curves.seconds(LINE, 1.5e8))
    # The smallest message costs what it costs; the network was not measured, and eight ranks share eight adapters.
    assert collective_seconds(collective(size=2), measured, Layout(tp=2)) == pytest.approx(1e-5)
    assert collective_seconds(collective(size=10**8), measured, Layout(tp=16)) == pytest.approx(0.01 + 1.0 / 8)
