"""The table of cases, and the order in which they run."""

from itertools import pairwise

import pytest

from tpscope.bench import cases
from tpscope.errors import UserError


def test_the_first_run_has_at_least_24_cases():
    found = [*cases.standard("nemo", 2), *cases.standard("transformers", 2)]
    assert len(found) >= 24
    for family in ("nemo", "transformers"):
        every = cases.standard(family, 2)
        assert len(set(every)) == len(every)


def test_every_sequence_and_mode_of_nemo_is_there():
    eager = [case for case in cases.standard("nemo", 2) if case.tier == 0 and not case.loss]
    assert {(case.build.model, case.build.sequence_parallel, case.sequence) for case in eager} == {
        (model, parallel, length) for model in cases.MODELS for parallel in (False, True) for length in cases.SEQUENCES
    }


def test_one_rank_has_no_sequence_parallel():
    assert not any(case.build.sequence_parallel for case in cases.standard("nemo", 1))
    assert any(case.build.sequence_parallel for case in cases.standard("nemo", 2))


def test_a_loss_is_asked_only_where_the_framework_computes_it():
    losses = {tp: {case.loss for case in cases.standard("nemo", tp)} for tp in (1, 2)}
    assert "ChunkedCrossEntropy" in losses[1]
    assert "ChunkedCrossEntropy" not in losses[2]


def test_the_order_follows_the_seed():
    every = cases.standard("nemo", 2)
    assert cases.shuffled(every, 1) == cases.shuffled(every, 1)
    assert cases.shuffled(every, 1) != cases.shuffled(every, 2)
    assert sorted(cases.shuffled(every, 1), key=str) == sorted(every, key=str)


def test_what_is_worth_most_comes_first_and_builds_stay_together():
    order = cases.shuffled(cases.standard("nemo", 2), 3)
    assert [case.tier for case in order] == sorted(case.tier for case in order)
    changes = sum(one.build != other.build for one, other in pairwise(order))
    assert changes == len({case.build for case in order}) - 1


def test_a_family_that_is_not_driven_is_named_with_those_that_are():
    with pytest.raises(UserError, match=r"megatron.*nemo, transformers"):
        cases.standard("megatron", 2)
