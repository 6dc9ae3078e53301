"""What a Triton kernel moves, told by its source."""

import pytest
import torch

from tpscope.frameworks.inside.price import launches

SOURCE = """
def scale_kernel(X_ptr, X_stride, Y_ptr, out_ptr, unused_ptr, n_cols, BLOCK: int):
    row = tl.program_id(0)
    X_ptr += row * X_stride
    offset_ptr = out_ptr + row
    factor = tl.load(Y_ptr + row)
    for i in range(0, n_cols, BLOCK):
        columns = i + tl.arange(0, BLOCK)
        block = tl.load(X_ptr + columns, mask=columns < n_cols)
        tl.store(X_ptr + columns, block * factor, mask=columns < n_cols)
    tl.store(offset_ptr, factor)
"""


def test_what_is_loaded_and_stored_is_read_off_the_source_through_assignments():
    assert launches.touched(SOURCE) == ({"X_ptr", "Y_ptr"}, {"X_ptr", "out_ptr"})


def test_an_offset_that_is_no_pointer_is_not_moved():
    loaded, stored = launches.touched(SOURCE.replace("tl.load(X_ptr + columns", "tl.load(X_ptr + n_cols"))
    assert "n_cols" not in loaded | stored


class Told:
    def __init__(self):
        self.launches = []

    def launched(self, name, read, written):
        self.launches.append((name, sum(map(torch.numel, read)), sum(map(torch.numel, written))))


def double_kernel(X_ptr, out_ptr, n_cols):
    tl.store(out_ptr, 2 * tl.load(X_ptr))  # noqa: F821 - a kernel is read here, never run


@pytest.fixture
def told():
    found = Told()
    launches.told_to(found)
    yield found
    launches._told.clear()


def test_a_launch_is_told_with_its_tensors_by_position_and_by_name(told):
    kernel = launches.Kernel("double_kernel", double_kernel)
    kernel[(4,)](torch.zeros(6), out_ptr=torch.zeros(3), n_cols=6)
    assert told.launches == [("triton::double_kernel", 6, 3)]
