"""What a machine says of itself, and what it takes from a calibrated one."""

import pytest
from made import collective, operation

from tpscope.errors import UserError
from tpscope.language.layout import Layout
from tpscope.price import hardware
from tpscope.price.cost import collective_seconds, kernel_seconds

TP2 = Layout(tp=2)
LIKE = """
title = "half an H200"
source = ["none"]
like = "h200"
memory_bytes = 1
reserved_bytes = 0
domain = 8
[compute]
bfloat16 = 494.5e12
[memory]
bytes_per_second = 2.4e12
[link]
bytes_per_second = 225e9
"""


def both(text=LIKE):
    return hardware.machine("h200"), hardware.parsed("half", text)


@pytest.mark.parametrize("name", ["a100", "h100", "l40s-pcie"])
def test_machines_without_measurements_cost_the_cpu_what_the_calibrated_one_does_and_say_so(name):
    calibrated, other = hardware.machine("h200"), hardware.machine(name)
    assert other.dispatch == calibrated.dispatch
    assert other.standing(TP2, 4096) == "uncalibrated"
    assert "nothing was measured" in other.assumed[0]
    assert calibrated.assumed == []


def test_kernels_reach_the_same_part_of_lower_peaks():
    calibrated, half = both()
    for item in (
        operation(flops=10**12),
        operation(name="_scaled_dot_product_flash_attention_for_cpu", flops=10**12),
        operation(name="mul", read=10**8, written=10**8),
    ):
        rest = [kernel_seconds(item, one) - one.dispatch.gap for one in (calibrated, half)]
        assert rest[1] == pytest.approx(2 * rest[0])


def test_what_a_collective_takes_before_its_first_byte_is_no_part_of_a_peak():
    calibrated, half = both()
    small, large = collective(size=8), collective(size=2**28)
    assert collective_seconds(small, half, TP2) == collective_seconds(small, calibrated, TP2)
    assert 1.9 < collective_seconds(large, half, TP2) / collective_seconds(large, calibrated, TP2) < 2


def test_what_a_file_says_itself_is_not_taken_from_another():
    _, own = both(f"{LIKE}[dispatch]\noperator = 1e-3\n")
    assert own.dispatch.operator == 1e-3
    assert own.dispatch.view == hardware.machine("h200").dispatch.view


@pytest.mark.parametrize("other", ["a100", "h20"])
def test_only_a_calibrated_machine_stands_for_another(other):
    with pytest.raises(UserError, match="names no calibrated machine"):
        hardware.parsed("half", LIKE.replace('"h200"', f'"{other}"'))
