"""Training state: DTensors in whole sizes, checkpoints that another layout goes on from, and none that is half."""

import os
import signal

import pytest
import torch
import torch.distributed as dist
from subjects import batch, loss, sharded, whole
from torch.distributed.checkpoint import filesystem
from torch.distributed.tensor import DTensor

from tpscope.engine import state
from tpscope.engine.data_parallel import fully_shard
from tpscope.engine.gradients import clip_grad_norm_
from tpscope.engine.held import state_of
from tpscope.engine.mesh import build_mesh
from tpscope.language.layout import Layout

SHARED = {"num_key_value_heads": 2, "vocab_size": 301}
MODEL = "qwen3-8b"


def parallel(plan, layout, changes):
    mesh = build_mesh(layout, "cpu")
    model = sharded(MODEL, plan, changes, group=mesh["tp"].get_group())
    state_of(model).mesh = mesh["tp"]
    return fully_shard(model, mesh), mesh


def steps(model, optimizer, first, last, clip, samples=lambda given: given, mean=lambda value: value):
    losses = []
    for step in range(first, last):
        given = samples(batch(model, 4 * step, samples=4))
        value = loss(model, given)
        value.backward()
        clip(model)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(mean(value.detach()))
    return losses


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def _first(rank, plan, folder):
    model, _ = parallel(plan, Layout(tp=4), SHARED)
    optimizer = adamw(model)
    found = steps(model, optimizer, 0, 2, lambda m: clip_grad_norm_(m, 0.5))
    kinds = {name: (tuple(item.shape), type(item)) for name, item in state.state_dict(model).items()}
    wanted = {name: tuple(item.shape) for name, item in whole(MODEL, **SHARED).state_dict().items()}
    state.save_checkpoint(folder, 2, model, optimizer, seen=20)
    return [float(value) for value in found], kinds == {name: (shape, DTensor) for name, shape in wanted.items()}


def _then(rank, plan, folder, layout):
    model, mesh = parallel(plan, layout, SHARED)
    optimizer = adamw(model)
    more = state.load_checkpoint(state.last_checkpoint(folder), model, optimizer, seen=0)
    place, size = mesh["dp"].get_local_rank(), mesh["dp"].size()

    def mine(given):
        return {name: tensor.chunk(size)[place] for name, tensor in given.items()}

    def mean(value):
        dist.all_reduce(value, group=mesh["dp"].get_group())
        return float(value) / size

    return steps(model, optimizer, 2, 4, lambda m: clip_grad_norm_(m, 0.5), mine, mean), more


@pytest.mark.parametrize("layout", [Layout(tp=2, dp_shard=2), Layout(tp=2, dp_replicate=2)], ids=["fsdp", "hsdp"])
def test_a_checkpoint_of_tp_4_goes_on_as_tp_2_with_two_data_ranks(ranks, plans, tmp_path, layout):
    unsharded = whole(MODEL, **SHARED)
    wanted = steps(unsharded, adamw(unsharded), 0, 4, lambda m: torch.nn.utils.clip_grad_norm_(m.parameters(), 0.5))
    for found, whole_sizes in ranks(_first, 4, plans(f"{MODEL}-two-kv-heads", 4), str(tmp_path)):
        assert whole_sizes
        assert found == pytest.approx([float(value) for value in wanted[:2]], rel=1e-6)
    for found, more in ranks(_then, 4, plans(MODEL, 2), str(tmp_path), layout):
        assert found == pytest.approx([float(value) for value in wanted[2:]], rel=1e-6)
        assert more == {"step": 2, "seen": 20}


def _killed(rank, plan, folder):
    model, _ = parallel(plan, Layout(tp=2), SHARED)
    optimizer = adamw(model)
    steps(model, optimizer, 0, 2, lambda m: None)
    state.save_checkpoint(folder, 2, model, optimizer)
    if rank:  # its weights are written, its part of the index is not
        filesystem.os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
    steps(model, optimizer, 2, 3, lambda m: None)
    state.save_checkpoint(folder, 3, model, optimizer)


def _found(rank, plan, folder):
    model, _ = parallel(plan, Layout(tp=2), SHARED)
    optimizer = adamw(model)
    more = state.load_checkpoint(state.last_checkpoint(folder), model, optimizer)
    return more["step"], steps(model, optimizer, more["step"], more["step"] + 2, lambda m: None)


def test_a_rank_that_is_killed_in_the_middle_of_a_save_leaves_the_last_whole_checkpoint(ranks, plans, tmp_path):
    with pytest.raises(AssertionError, match=f"ended .*{-signal.SIGKILL}"):
        ranks(_killed, 2, plans(MODEL, 2), str(tmp_path))
    partial = list(tmp_path.glob(".step-00000003*/*"))
    assert partial
    assert ".metadata" not in [file.name for file in partial]
    assert state.last_checkpoint(tmp_path).name == "step-00000002"
    unsharded = whole(MODEL, **SHARED)
    wanted = steps(unsharded, adamw(unsharded), 0, 4, lambda m: None)[2:]
    for step, losses in ranks(_found, 2, plans(MODEL, 2), str(tmp_path)):
        assert step == 2
        assert losses == pytest.approx([float(value) for value in wanted], rel=1e-6)
    assert state.last_checkpoint(tmp_path / "nothing") is None
