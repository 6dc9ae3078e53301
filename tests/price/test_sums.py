"""Collectives that move one thing several times are counted as one thing."""

import torch

from tpscope.frameworks.inside.price.sums import Sums
from tpscope.frameworks.inside.price.where import OUTSIDE, Place

aten = torch.ops.aten
Q, K, V = (Place(f"model.layers.*.{name}_proj", 0) for name in "qkv")


ALIVE = []


def reduced(sums, place, shape=(4, 4), phase="backward", kind="all_reduce"):
    read, given = torch.zeros(shape), torch.zeros(shape)
    # A storage that dies is forgotten by whoever follows what lives; here nothing dies.
    ALIVE.append(read)
    sums.issued(phase, kind, place, [read], [given])
    return given


def added(sums, one, other):
    result = one + other
    sums.ran(aten.add.Tensor, [one, other], [result])
    return result


def counts(sums):
    return [(item.phase, item.kind, item.issued, item.distinct) for item in sums.moved()]


def test_results_that_are_only_added_could_have_been_one():
    sums = Sums()
    q, k, v = (reduced(sums, place) for place in (Q, K, V))
    kept = added(sums, added(sums, q, k), v)
    assert counts(sums) == [("backward", "all_reduce", 3, 1)]
    assert sums.moved()[0].modules == [Q.module, K.module, V.module]
    assert kept is not None


def test_views_and_copies_between_do_not_hide_it():
    sums = Sums()
    q, k = reduced(sums, Q), reduced(sums, K)
    copy = q.clone()
    sums.ran(aten.clone.default, [q], [copy])
    added(sums, copy.view(16), k.view(16))
    assert counts(sums) == [("backward", "all_reduce", 2, 1)]


def test_a_result_that_goes_through_anything_else_is_a_thing_of_its_own():
    sums = Sums()
    q, k = reduced(sums, Q), reduced(sums, K)
    other = q * 2
    sums.ran(aten.mul.Tensor, [q], [other])
    added(sums, other, k)
    added(sums, k, torch.zeros(4, 4))
    assert counts(sums) == [("backward", "all_reduce", 2, 2)]


def test_a_result_that_is_written_over_is_not_the_result_any_more():
    sums = Sums()
    q, k = reduced(sums, Q), reduced(sums, K)
    sums.ran(aten.mul_.Tensor, [q], [q])
    added(sums, q, k)
    assert counts(sums) == [("backward", "all_reduce", 2, 2)]


def test_one_tensor_gathered_three_times_is_one_thing():
    sums, shard = Sums(), torch.zeros(4, 4)
    kept = []
    for place in (Q, K, V):
        kept.append(torch.zeros(8, 4))
        sums.issued("forward", "all_gather", place, [shard], [kept[-1]])
    assert counts(sums) == [("forward", "all_gather", 3, 1)]


def test_changed_in_between_it_is_another_thing():
    sums, shard = Sums(), torch.zeros(4, 4)
    first, second = torch.zeros(8, 4), torch.zeros(8, 4)
    sums.issued("forward", "all_gather", Q, [shard], [first])
    sums.ran(aten.mul_.Tensor, [shard], [shard])
    sums.issued("forward", "all_gather", K, [shard], [second])
    assert counts(sums) == [("forward", "all_gather", 2, 2)]


def test_gradients_of_norms_and_what_is_outside_of_layers_are_not_counted():
    sums = Sums()
    reduced(sums, Q, shape=(128,))
    reduced(sums, OUTSIDE)
    assert counts(sums) == []
