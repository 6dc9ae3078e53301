"""A gradient that is lost behind a collective nobody waited for: recorded, named, mended; and nothing else is."""

import pytest
import torch
from torch import nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor

from tpscope.frameworks.inside.proof.border import borders
from tpscope.frameworks.inside.proof.borders import Wait
from tpscope.frameworks.inside.proof.candidates import lost
from tpscope.frameworks.inside.proof.record import Recorder
from tpscope.language.proof import Cause


class Async(torch.autograd.Function):
    """A tensor as the result of a collective, with its gradient: what DTensor.to_local gives after an all-reduce."""

    @staticmethod
    def forward(ctx, tensor):
        found = AsyncCollectiveTensor(tensor.detach().clone())
        found.completed = True
        return found

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Embed(nn.Embedding):
    wrap = None

    def forward(self, ids):
        found = super().forward(ids)
        return self.wrap(found) if self.wrap else found


class Block(nn.Module):
    cut = False

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(4, 4)

    def forward(self, x):
        x = x.detach() if self.cut else x
        return x + self.up(x)


def net(wrap=None, cut=False, compiled=False):
    torch.manual_seed(0)
    model = nn.Sequential(Embed(8, 4), Block())
    model[0].wrap, model[1].cut = wrap, cut
    if compiled:
        model[1].compile(backend="aot_eager")
    return model


def watched(model):
    with Recorder(model) as recorder:
        model(torch.arange(6).view(2, 3)).pow(2).sum().backward()
    return recorder.all[0]


def found(*ranks):
    return borders(list(ranks), watched(net()), {})


def test_a_lost_gradient_of_an_unwaited_tensor_is_trainability_to_be_mended_by_waiting():
    one = watched(net(Async.apply, cut=True))
    (mend,) = lost(found(one, one))
    assert (mend.cause, mend.patterns) == (Cause.TRAINABILITY, ("0",))
    assert "takes it as an AsyncCollectiveTensor" in mend.what


@pytest.mark.parametrize(("wrap", "cut"), [(None, False), (Async.apply, False), (None, True)])
def test_without_loss_or_without_a_collective_there_is_nothing_to_wait_for(wrap, cut):
    one = watched(net(wrap, cut))
    assert not list(lost(found(one, one)))


def test_a_gradient_that_one_rank_has_is_not_lost():
    assert not list(lost(found(watched(net(Async.apply, cut=True)), watched(net(Async.apply)))))


def test_a_loss_is_told_with_the_module_that_took_the_tensor():
    one = watched(net(cut=True))
    assert [(border.module, border.into) for border in found(one, one) if border.lost] == [("0", "1")]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_modules_under_compile_are_watched_and_waiting_brings_the_gradient_back():
    """Fails on its first half when torch keeps the gradient: the bug book's entry then has an end."""
    one = watched(net(Async.apply, compiled=True))
    assert len(list(lost(found(one, one)))) == 1
    waited = watched(net(lambda tensor: Wait.apply(Async.apply(tensor)), compiled=True))
    assert not any(border.lost for border in found(waited, waited))
