"""Context parallelism with tensor and data parallelism around it: losses and gradients are those of whole sequences."""

import pytest
import torch
import torch.distributed as dist
from subjects import batch, gradients, mine, sharded, whole
from torch.distributed.tensor import DTensor

from tpscope.engine.context import context_parallel, context_part
from tpscope.engine.data_parallel import fully_shard
from tpscope.engine.gradients import clip_grad_norm_
from tpscope.engine.held import parts, state_of
from tpscope.engine.mesh import build_mesh
from tpscope.errors import UserError
from tpscope.language.layout import Layout

pytestmark = pytest.mark.filterwarnings("ignore")


def _trained(rank, plan, name, layout, padded):
    mesh = build_mesh(layout, "cpu")
    model = sharded(name, plan, group=mesh["tp"].get_group(), sequence_parallel=layout.sequence_parallel)
    state_of(model).mesh = mesh["tp"]
    fully_shard(context_parallel(model, mesh), mesh)
    unsharded = whole(name)
    given = batch(model, 1, length=24)
    if padded:
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        given["attention_mask"][0, 17:] = 0
        given["labels"][0, 17:] = -100
    tokens = (given["labels"][:, 1:] != -100).sum()
    loss = model(**context_part(given, mesh), num_items_in_batch=tokens).loss
    (loss * mesh["cp"].size()).backward()
    norm = clip_grad_norm_(model, 1e9)
    dist.all_reduce(loss.detach(), group=mesh["cp"].get_group())
    wanted = unsharded(**given, num_items_in_batch=tokens).loss
    wanted.backward()
    total = torch.nn.utils.clip_grad_norm_(unsharded.parameters(), 1e9)
    expected = gradients(unsharded)
    tp = mesh["tp"]
    bad = []
    for part in parts(model):
        gradient = part.tensor.grad
        gradient = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        own = mine(expected[part.name], part, tp.get_local_rank(), tp.size())
        if not (gradient - own).abs().max() <= 1e-6 * float(total):
            bad.append(part.name)
    return bad, float(norm - total)


@pytest.mark.parametrize("name", ["qwen3-8b", "gemma-2-9b"])
@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
def test_two_parts_of_two_ranks(ranks, plans, name, padded):
    for bad, norm in ranks(_trained, 4, plans(name, 2), name, Layout(cp=2, tp=2), padded):
        assert bad == []
        assert abs(norm) < 1e-6


def test_with_sequence_parallelism(ranks, plans):
    layout = Layout(cp=2, tp=2, sequence_parallel=True)
    for bad, _ in ranks(_trained, 4, plans("qwen3-8b", 2), "qwen3-8b", layout, False):
        assert bad == []


def _without(rank, plan):
    mesh = build_mesh(Layout(cp=2), "cpu")
    model, unsharded = whole("qwen3-8b"), whole("qwen3-8b")
    given = batch(model, length=24)
    part = context_part(given, mesh)
    found = model(input_ids=part["input_ids"], position_ids=part["position_ids"]).logits
    alike = torch.allclose(found, unsharded(input_ids=given["input_ids"]).logits.chunk(2, 1)[rank])
    with pytest.raises(UserError, match="13 tokens cannot be cut over 2"):
        context_part(batch(model, length=13), mesh)
    return alike


def test_a_part_alone_is_another_sequence(ranks, plans):
    assert ranks(_without, 2, plans("qwen3-8b", 2)) == [True, False]
