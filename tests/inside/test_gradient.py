"""What is done to a gradient over tp is told from the gradient itself: each reduction made for real, and none."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from tpscope.frameworks.inside import world
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.gradient import Observation
from tpscope.frameworks.inside.trace import Trail
from tpscope.language.answer import FrameworkAnswer, ParameterRow
from tpscope.language.verdict import Reduction


@dataclass
class Small:
    """A request as far as an observation reads it."""

    layout: SimpleNamespace
    roots: list = field(default_factory=list)


@pytest.fixture
def tp4():
    world.start(4)
    yield 4
    world.stop()


def observed(model, loop, during_backward=lambda model: None):
    """Drive one backward and one loop over a model, as the frameworks' observers do; gradient_loop by name."""
    names = [name for name, _ in model.named_parameters()]
    answer = FrameworkAnswer(id="x", parameters=[ParameterRow(name, [4], "Replicate()", [4]) for name in names])
    case = Case(Small(SimpleNamespace(tp=4)), answer, None, None)
    seen = Observation(case, Trail([], ("nowhere",)))
    with seen.recorder:
        seen.phase("backward")
        model(torch.ones(2, 4)).sum().backward()
        during_backward(model)
        seen.backward_done(model)
        loop(model)
        seen.before_step(model)
    return {row.name: row.gradient_loop for row in answer.parameters}


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))


def test_sum_mean_and_none_are_told_apart_through_a_bucket(tp4):
    model = net()

    def loop(model):
        summed, averaged = model[0].weight.grad, model[0].bias.grad
        bucket = torch.cat([summed.reshape(-1), model[1].weight.grad.reshape(-1)])
        dist.all_reduce(bucket)
        summed.copy_(bucket[:16].view(4, 4))
        model[1].weight.grad.copy_(bucket[16:].view(4, 4))
        dist.all_reduce(averaged)
        averaged.div_(4)

    found = observed(model, loop)
    assert found == {
        "0.weight": Reduction.SUM,
        "1.weight": Reduction.SUM,
        "0.bias": Reduction.MEAN,
        "1.bias": Reduction.NONE,
    }


def test_a_loop_that_does_nothing_is_none_everywhere(tp4):
    assert set(observed(net(), lambda model: None).values()) == {Reduction.NONE}


def test_a_hook_of_the_backward_counts(tp4):
    def hook(model):
        dist.all_reduce(model[0].weight.grad)

    found = observed(net(), lambda model: None, hook)
    assert found["0.weight"] == Reduction.SUM
    assert found["1.weight"] == Reduction.NONE


def test_an_average_in_a_hook_is_a_mean(tp4):
    found = observed(net(), lambda model: None, lambda model: dist.all_reduce(model[0].bias.grad, op=dist.ReduceOp.AVG))
    assert found["0.bias"] == Reduction.MEAN


def test_an_activation_that_is_reduced_is_not_a_gradient(tp4):
    found = observed(net(), lambda model: None, lambda model: dist.all_reduce(torch.ones(2, 4)))
    assert set(found.values()) == {Reduction.NONE}


def test_clipping_is_no_reduction(tp4):
    found = observed(net(), lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9))
    assert set(found.values()) == {Reduction.NONE}


def test_a_reduction_over_one_rank_is_none(tp4):
    alone = dist.new_group([0])
    found = observed(net(), lambda model: None, lambda model: dist.all_reduce(model[0].weight.grad, group=alone))
    assert set(found.values()) == {Reduction.NONE}


def test_a_functional_reduction_counts_like_any_other(tp4):
    from torch.distributed import _functional_collectives as functional

    def loop(model):
        whole = functional.all_reduce(model[0].weight.grad, "sum", dist.group.WORLD)
        model[0].weight.grad.copy_(functional.wait_tensor(whole))

    assert observed(net(), loop)["0.weight"] == Reduction.SUM


def raised_by(call):
    with pytest.raises((AttributeError, RuntimeError)) as caught:
        call()
    return caught.value


def test_what_is_missing_on_our_side_is_no_crash_of_the_frameworks(tp4):
    from tpscope.frameworks.inside import params

    def failed_with(error):
        case = Case(Small(SimpleNamespace(tp=4)), FrameworkAnswer(id="x"), None, None)
        Observation(case, Trail([], ("nowhere",))).failed(error)
        return case.answer

    own = failed_with(raised_by(lambda: params.shapes(None)))
    assert (own.status, own.error, own.loop_error) == ("ok", None, None)
    assert "AttributeError" in own.forward["unobserved"]
    theirs = failed_with(raised_by(lambda: torch.ones(2) @ torch.ones(3)))
    assert theirs.status == "crashed"
