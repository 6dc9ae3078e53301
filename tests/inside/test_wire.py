"""Collectives are seen whoever issues them, and layouts are read as torch's own styles hold them."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

from tpscope.frameworks.inside import normal, world
from tpscope.frameworks.inside.wire import Recorder


@pytest.fixture
def mesh():
    world.start(2)
    yield init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    world.stop()


def linear(mesh, given):
    """A Linear of DTensors: what its operation needs, DTensor gathers by itself."""
    weight = DTensor.from_local(torch.ones(4, 8), mesh, [Shard(0)])
    inputs = DTensor.from_local(torch.ones(2, 4 if given.is_shard() else 8, 8), mesh, [given])
    with Recorder(2) as recorder:
        torch.nn.functional.linear(inputs, weight)
    return recorder.count("forward")


def test_what_dtensor_gathers_inside_an_operation_is_counted(mesh):
    assert linear(mesh, Shard(1)) == {"all_gather": 1}
    assert linear(mesh, Replicate()) == {}


def test_a_layout_that_torch_prints_short_is_read():
    row = normal.normal(RowwiseParallel(output_layouts=Shard(1)), nn.Linear(4, 4))
    assert (str(row.output), row.forward) == ("Shard(dim=1)", ("reduce_scatter",))
    column = normal.normal(ColwiseParallel(input_layouts=Shard(1)), nn.Linear(4, 4))
    assert (str(column.input), column.forward, column.backward) == (
        "Shard(dim=1)",
        ("all_gather",),
        ("reduce_scatter",),
    )


def test_a_style_without_layouts_of_its_own_has_the_usual_ones():
    row = normal.normal(RowwiseParallel(), nn.Linear(4, 4))
    assert (str(row.input), str(row.output), row.forward) == ("Shard(dim=2)", "Replicate()", ("all_reduce",))
