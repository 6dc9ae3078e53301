"""Gradients that are parts are added once a step, whatever backward passes came before; norms count numbers once."""

import pytest
import torch
from subjects import Counter, batch, gradients, loss, sharded, whole, wrong

from tpscope.engine.gradients import clip_grad_norm_, finish_gradients
from tpscope.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")
MODEL = "qwen3-0.6b"


def reference(steps, name=MODEL, **changes):
    model = whole(name, **changes)
    for step in steps:
        loss(model, batch(model, step)).backward()
    return model


def _accumulated(rank, plan, checkpointing):
    model = sharded(MODEL, plan)
    if checkpointing:
        model.gradient_checkpointing_enable()
    counter = Counter()
    for step in range(3):
        loss(model, batch(model, step)).backward()
    wanted = gradients(reference(range(3)))
    before = wrong(model, wanted, rank)
    with counter:
        finish_gradients(model)
        finish_gradients(model)
    return before, wrong(model, wanted, rank), counter.counts


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_three_accumulated_backward_passes_take_one_sum(ranks, plans, checkpointing):
    for before, after, counts in ranks(_accumulated, 2, plans(MODEL, 2), checkpointing):
        assert before  # the sum is what makes them right
        assert all("_norm" in name for name in before)
        assert after == []
        assert counts == {"all_reduce": 1}


def _reopened(rank, plan, keep):
    model = sharded(MODEL, plan)
    loss(model, batch(model, 0)).backward()
    finish_gradients(model)
    if not keep:
        model.zero_grad()
    loss(model, batch(model, 1)).backward()
    finish_gradients(model)
    wanted = reference((0, 1) if keep else (1,))
    return wrong(model, gradients(wanted), rank)


@pytest.mark.parametrize("keep", [True, False], ids=["added to", "cleared"])
def test_gradients_after_a_sum_are_right_again(ranks, plans, keep):
    assert ranks(_reopened, 2, plans(MODEL, 2), keep) == [[], []]


def _stepped(rank, plan, clip):
    def train(model, clipped):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        norms = []
        for step in range(3):
            loss(model, batch(model, step)).backward()
            if clip:
                norms.append(float(clipped(model)))
            optimizer.step()
            optimizer.zero_grad()
        return norms

    model, unsharded = sharded(MODEL, plan), whole(MODEL)
    found = train(model, lambda m: clip_grad_norm_(m, 0.1))
    wanted = train(unsharded, lambda m: torch.nn.utils.clip_grad_norm_(m.parameters(), 0.1))
    after = {name: parameter.detach() for name, parameter in unsharded.named_parameters()}
    held = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return wrong(model, after, rank, found=held), found, wanted


@pytest.mark.parametrize("clip", [False, True], ids=["the optimizer sums", "clipping sums"])
def test_three_steps_of_adamw_are_those_of_the_whole_model(ranks, plans, clip):
    for names, found, wanted in ranks(_stepped, 2, plans(MODEL, 2), clip):
        assert names == []
        assert found == pytest.approx(wanted, rel=1e-6)


SHARED = {"num_key_value_heads": 2}


def _shared_heads(rank, plan):
    model = sharded("qwen3-8b", plan, SHARED)
    loss(model, batch(model, 0)).backward()
    finish_gradients(model)
    unsharded = reference((0,), "qwen3-8b", **SHARED)
    wanted = gradients(unsharded)
    norm = torch.nn.utils.clip_grad_norm_(unsharded.parameters(), 1e9)
    return wrong(model, wanted, rank), float(clip_grad_norm_(model, 1e9)), float(norm)


def test_kv_heads_that_several_ranks_hold_are_summed_and_counted_once(ranks, plans):
    plan = plans("qwen3-8b-two-kv-heads", 4)
    assert "copies" in plan
    for names, found, wanted in ranks(_shared_heads, 4, plan):
        assert names == []
        assert found == pytest.approx(wanted, rel=1e-6)


def _made_before(rank, plan):
    from tpscope.engine.collectives import ProcessAxis
    from tpscope.engine.parallelize import parallelize
    from tpscope.plan import files

    model = whole(MODEL)
    optimizer = torch.optim.AdamW(model.parameters())
    parallelize(model, ProcessAxis(), files.read(plan, "plan"), sums="step")
    loss(model, batch(model, 0)).backward()
    with pytest.raises(UserError, match="was made before"):
        optimizer.step()
    return True


def test_an_optimizer_that_was_made_before_is_refused(ranks, plans):
    assert all(ranks(_made_before, 2, plans(MODEL, 2)))
