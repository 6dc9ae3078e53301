"""The engine on real processes over gloo: sums in every backward, as proofs want them, and what is refused."""

import pytest
import torch
from subjects import batch, config, gradients, loss, sharded, whole, wrong

import tpscope
from tpscope.engine.collectives import ProcessAxis, sum_of_ranks
from tpscope.engine.parallelize import parallelize
from tpscope.errors import UserError
from tpscope.language.layout import Layout
from tpscope.plan import files
from tpscope.plan.inside.subject import build

pytestmark = pytest.mark.filterwarnings("ignore")
MODEL = "qwen3-0.6b"


def _rank(rank, plan, broken):
    text = plan.replace("gradient: sum", "") if broken else plan
    model = sharded(MODEL, text, logits="whole", sums="backward")
    unsharded = whole(MODEL)
    for step in range(2):
        for one in (model, unsharded):
            loss(one, batch(one, step)).backward()
    return wrong(model, gradients(unsharded), rank)


@pytest.mark.parametrize("broken", [False, True], ids=["as derived", "sums left out"])
def test_gradients_are_right_after_every_backward_pass(ranks, plans, broken):
    found = ranks(_rank, 2, plans(MODEL, 2), broken)
    if broken:
        assert found[0]
        assert all("_norm" in name for name in found[0])
    else:
        assert found == [[], []]


class Alone:
    rank, size = 0, 3


def test_a_plan_for_other_ranks_is_refused_and_nothing_is_changed(plans):
    model = build(config(MODEL))
    before = {name: p.shape for name, p in model.named_parameters()}
    with pytest.raises(UserError, match="for 2 ranks and the axis has 3"):
        parallelize(model, Alone(), files.read(plans(MODEL, 2), "plan"))
    assert before == {name: p.shape for name, p in model.named_parameters()}


def _public(rank, folder):
    import os

    os.environ["TPSCOPE_CACHE"] = folder
    mesh = tpscope.build_mesh(Layout(tp=2), "cpu")
    model, unsharded = whole(MODEL), whole(MODEL)
    assert tpscope.parallelize(model, mesh) is model
    found = []
    for one in (model, unsharded):
        value = loss(one, batch(one))
        value.backward()
        found.append(float(value))
    norm = tpscope.clip_grad_norm_(model, 1.0)
    wanted = torch.nn.utils.clip_grad_norm_(unsharded.parameters(), 1.0)
    return found, wrong(model, gradients(unsharded), rank), float(norm - wanted)


def test_the_public_face_derives_proves_and_runs(ranks, tmp_path):
    for (value, wanted), names, difference in ranks(_public, 2, str(tmp_path)):
        assert value == pytest.approx(wanted, rel=1e-6)
        assert names == []
        assert abs(difference) < 1e-6


def _misfit(rank):
    with pytest.raises(UserError, match="takes 3 ranks and 2 were started"):
        tpscope.build_mesh(Layout(tp=3), "cpu")
    return True


def test_a_layout_that_does_not_fit_is_one_sentence(ranks):
    assert ranks(_misfit, 2) == [True, True]


def _in_place(rank):
    axis, weight = ProcessAxis(), torch.eye(3, dtype=torch.float64)
    given = torch.full((1, 2, 3), 1.0 + rank, dtype=torch.float64, requires_grad=True)
    found = []
    for made in (torch.nn.functional.linear(given, weight), given.exp()):
        place, alone = made.data_ptr(), made.detach().clone()
        total = sum_of_ranks(made, axis)
        given.grad = None
        total.sum().backward()
        found.append((total.data_ptr() == place, total.detach(), alone, given.grad.clone()))
    return found


def test_a_sum_takes_the_place_of_what_nobody_keeps_and_only_of_that(ranks):
    (plain, exponential), (other_plain, other_exponential) = ranks(_in_place, 2)
    assert [place for place, *_ in (plain, exponential)] == [True, False]
    for mine, theirs in ((plain, other_plain), (exponential, other_exponential)):
        assert torch.equal(mine[1], mine[2] + theirs[2])
    assert torch.equal(plain[3], torch.ones(1, 2, 3, dtype=torch.float64))
    assert torch.equal(exponential[3], exponential[2])  # exp keeps what it gave
