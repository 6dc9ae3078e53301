"""Sequence parallelism gives the same gradients, and as many gathers as scatters; without: 4 all-reduces a
layer, 2 where attention and MLP are one sum."""

import pytest
import torch
from subjects import Counter, batch, gradients, loss, sharded, whole, wrong

from tpscope.engine.gradients import finish_gradients
from tpscope.engine.held import parts
from tpscope.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")
DENSE = ("qwen3-8b", "llama-3.2-1b", "gemma-2-9b", "phi-3-mini")
PARALLEL = ("phi-2", "command-r")


def _trained(rank, plan, name, sequence_parallel, forget):
    model, unsharded = sharded(name, plan, sequence_parallel=sequence_parallel), whole(name)
    if forget:
        for part in parts(model):
            part.module.__dict__.pop("_tpscope_held", None)
    model.gradient_checkpointing_enable()
    for step in range(2):
        for one in (model, unsharded):
            loss(one, batch(one, step)).backward()
    finish_gradients(model)
    return wrong(model, gradients(unsharded), rank) if not forget else [part.name for part in parts(model)]


@pytest.mark.parametrize("name", [*DENSE, *PARALLEL, "gpt-oss-20b", "mixtral-8x7b"])
def test_gradients_are_those_of_the_whole_model(ranks, plans, name):
    assert ranks(_trained, 2, plans(name, 2), name, True, False) == [[], []]


def test_a_plan_whose_entries_lie_inside_their_module_is_entered_where_the_module_is(ranks, plans):
    """`transformers` ships it so: qkv_proj is gathered, and the attention reads the length before it comes to it."""
    assert ranks(_trained, 2, plans("phi-3-mini-gathered", 2), "phi-3-mini", True, False) == [[], []]


def _sums(rank, plan):
    model, unsharded = sharded("qwen3-8b", plan, sequence_parallel=True), whole("qwen3-8b")
    for one in (model, unsharded):
        loss(one, batch(one)).backward()
    return wrong(model, gradients(unsharded), rank)


def test_norms_between_regions_see_their_tokens_only_until_they_are_summed(ranks, plans):
    names = ranks(_sums, 2, plans("qwen3-8b", 2))[0]
    assert any("input_layernorm" in name for name in names)
    assert all("norm" in name for name in names)


def _counted(rank, plan, name, layers, sequence_parallel):
    changes = {"num_hidden_layers": layers, "layer_types": None}
    model = sharded(name, plan, changes, sequence_parallel=sequence_parallel)
    with Counter() as seen:
        loss(model, batch(model)).backward()
    return seen.counts


def _of_a_layer(ranks, plan, name, sequence_parallel=False):
    """The difference between four and two layers, which leaves out embedding, head and loss."""
    more = ranks(_counted, 2, plan, name, 4, sequence_parallel)[0]
    less = ranks(_counted, 2, plan, name, 2, sequence_parallel)[0]
    kinds = sorted({*more, *less})
    return {k: (more.get(k, 0) - less.get(k, 0)) / 2 for k in kinds if more.get(k, 0) != less.get(k, 0)}


@pytest.mark.parametrize("name", [*DENSE, *PARALLEL])
def test_collectives_of_a_layer(ranks, plans, name):
    count = 2 if name in PARALLEL else 4
    assert _of_a_layer(ranks, plans(name, 2), name) == {"all_reduce": count}
    both = {"all_gather_into_tensor": count, "reduce_scatter_tensor": count}
    assert _of_a_layer(ranks, plans(name, 2), name, sequence_parallel=True) == both


def test_a_plan_without_one_sum_takes_four(ranks, plans):
    text = "\n".join(line for line in plans("command-r", 2).splitlines() if "carries" not in line)
    assert _of_a_layer(ranks, text, "command-r") == {"all_reduce": 4}


def _odd(rank, plan):
    model = sharded("qwen3-8b", plan, sequence_parallel=True)
    with pytest.raises(UserError, match="13 tokens cannot be shared out over 2 ranks"):
        loss(model, batch(model, length=13))
    unsharded = whole("qwen3-8b")
    ids = batch(model, length=13)["input_ids"]
    with torch.no_grad():
        return torch.allclose(model(ids).logits, unsharded(ids).logits)


def test_an_odd_sequence_is_refused_in_training_and_runs_whole_in_evaluation(ranks, plans):
    assert ranks(_odd, 2, plans("qwen3-8b", 2)) == [True, True]


def _refused(rank, plan):
    before = whole("qwen3-8b")
    shapes = {name: p.shape for name, p in before.named_parameters()}
    with pytest.raises(UserError, match=r"self_attn.* is in no region of the plan"):
        sharded("qwen3-8b", plan, sequence_parallel=True)
    return shapes == {name: p.shape for name, p in before.named_parameters()}


def test_a_layer_whose_attention_is_whole_is_refused(ranks, plans):
    from dataclasses import replace

    from tpscope.plan import files

    plan = files.read(plans("qwen3-8b", 2), "plan")
    less = replace(plan, regions=tuple(r for r in plan.regions if "self_attn" not in r.exits[0]))
    assert ranks(_refused, 2, files.write(less)) == [True, True]
