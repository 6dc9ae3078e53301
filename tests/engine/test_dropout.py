"""Dropout under tensor parallelism: equal masks where activations are whole, a rank's own where they are sharded."""

import pytest
import torch
import torch.distributed as dist
from subjects import Counter, batch, gradients, loss, sharded, whole

from tpscope.engine import parallelize as module
from tpscope.engine.gradients import finish_gradients
from tpscope.frameworks.inside.proof.dropout import Masks, judged

pytestmark = pytest.mark.filterwarnings("ignore")


def dropping(model):
    """Every Dropout and every rate that attention reads, at 0.1."""
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.1
        if hasattr(part, "attention_dropout") and isinstance(part.attention_dropout, float):
            part.attention_dropout = 0.1
    return model


def prepared(name, plan, **options):
    """`sharded`, with dropout on before it is parallelized."""
    import subjects

    build = subjects.whole
    subjects.whole = lambda *given, **changes: dropping(build(*given, **changes))
    try:
        return sharded(name, plan, **options)
    finally:
        subjects.whole = build


def _masks(rank, plan, name, sequence_parallel, forked):
    if not forked:
        module.fork_region = lambda *given: None
    torch.manual_seed(11)
    model = prepared(name, plan, sequence_parallel=sequence_parallel)
    with Masks() as seen:
        loss(model, batch(model)).backward()
    with Masks() as unsharded:
        own = dropping(whole(name))
        loss(own, batch(own)).backward()
    everyone = [None] * 2
    dist.all_gather_object(everyone, seen.found)
    return judged(everyone, [mask.shape for mask in unsharded.found]), torch.rand(()).item()


@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["", "sequence parallel"])
@pytest.mark.parametrize("name", ["gpt2", "qwen3-8b", "phi-2"])
def test_masks(ranks, plans, name, sequence_parallel):
    (found, after), (_, other) = ranks(_masks, 2, plans(name, 2), name, sequence_parallel, True)
    assert found
    assert all(right for _, _, right in found)
    assert any(cut for _, cut, _ in found)
    assert after == other  # all ranks go on with the same stream


def _reduces(rank, plan, build):
    model = build("phi-2", plan)
    with Counter() as seen:
        loss(model, batch(model)).backward()
    return seen.counts["all_reduce"]


def test_what_a_layer_masks_apart_is_no_single_sum(ranks, plans):
    """phi-2 drops out of attention's and of the MLP's result: two sums forward, two backward in each of 2 layers."""
    plan = plans("phi-2", 2)
    assert ranks(_reduces, 2, plan, prepared)[0] == ranks(_reduces, 2, plan, sharded)[0] + 2 * 2


def test_without_streams_of_their_own_ranks_drop_the_same_heads(ranks, plans):
    (found, _), _ = ranks(_unforked, 2, plans("gpt2", 2))
    assert any(cut and not right for _, cut, right in found)


def _unforked(rank, plan):
    kept = module.fork_region
    try:
        return _masks(rank, plan, "gpt2", False, False)
    finally:
        module.fork_region = kept


def _recomputed(rank, plan, name):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(11)
        model = prepared(name, plan)
        if checkpointing:
            model.gradient_checkpointing_enable()
        loss(model, batch(model)).backward()
        finish_gradients(model)
        found.append(gradients(model))
    return [key for key, tensor in found[0].items() if not torch.allclose(tensor, found[1][key])]


def test_recomputed_layers_draw_the_same_masks(ranks, plans):
    assert ranks(_recomputed, 2, plans("gpt2", 2), "gpt2") == [[], []]


def _adapters(rank, plan):
    import peft

    from tpscope.engine.adapters import add_adapters

    lora = peft.LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1)
    torch.manual_seed(11)
    model = add_adapters(sharded("qwen3-8b", plan), lora)
    with Masks() as seen:
        loss(model, batch(model)).backward()
    with Masks() as unsharded:
        own = peft.get_peft_model(whole("qwen3-8b"), lora)
        loss(own, batch(own)).backward()
    everyone = [None] * 2
    dist.all_gather_object(everyone, seen.found)
    return judged(everyone, [mask.shape for mask in unsharded.found])


def test_dropout_in_front_of_adapters(ranks, plans):
    pytest.importorskip("peft")
    found, _ = ranks(_adapters, 2, plans("qwen3-8b", 2))
    assert {cut for _, cut, _ in found} == {True, False}
    assert all(right for _, _, right in found)
