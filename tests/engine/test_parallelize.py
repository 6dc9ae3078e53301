"""The engine on two real processes over gloo, what it refuses, and gradients under accumulation."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from tpscope.engine.collectives import ProcessAxis
from tpscope.engine.parallelize import parallelize
from tpscope.engine.slices import take
from tpscope.errors import UserError
from tpscope.models.read import read
from tpscope.models.shrink import shrink
from tpscope.plan import files
from tpscope.plan.inside.derive import Deriver
from tpscope.plan.inside.subject import build, tokens

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIG = shrink(read("qwen3-0.6b")[0].config).config
STEPS = 2


def _gradients(model, loss_of):
    for step in range(STEPS):
        loss_of(model, tokens(model, step)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _loss(model, ids):
    return model(input_ids=ids, labels=ids).loss


def _rank(rank, text, folder, broken):
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(folder, "store"), 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    whole = build(CONFIG)
    wanted = _gradients(whole, _loss)
    plan = files.read(text.replace("gradient: sum", "") if broken else text, "plan")
    sharded = parallelize(build(CONFIG), ProcessAxis(), plan)
    found = _gradients(sharded.model, _loss)
    largest = max(g.abs().max().item() for g in wanted.values())
    wrong = []
    for name, gradient in wanted.items():
        mine = take(gradient, sharded.cuts[name], rank, 2) if name in sharded.cuts else gradient
        if not (found[name] - mine).abs().max().item() <= 1e-6 * largest:
            wrong.append(name)
    Path(folder, str(rank)).write_text("\n".join(wrong))
    dist.destroy_process_group()


@pytest.mark.parametrize("broken", [False, True], ids=["as derived", "sums left out"])
def test_the_models_own_loss_and_accumulated_gradients_on_two_processes(broken):
    text = files.write(Deriver(build(CONFIG, "eager")).derive(2))
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(_rank, (text, folder, broken), nprocs=2)
        wrong = [Path(folder, str(rank)).read_text().split() for rank in range(2)]
    if broken:
        assert wrong[0]
        assert all("_norm" in name for name in wrong[0])
    else:
        assert wrong == [[], []]


class Alone:
    rank, size = 0, 3


def test_a_plan_for_other_ranks_is_refused_and_nothing_is_changed():
    model = build(CONFIG)
    plan = Deriver(build(CONFIG, "eager")).derive(2)
    before = {name: p.shape for name, p in model.named_parameters()}
    with pytest.raises(UserError, match="for 2 ranks and the axis has 3"):
        parallelize(model, Alone(), plan)
    assert before == {name: p.shape for name, p in model.named_parameters()}
