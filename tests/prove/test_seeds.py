"""What other hash seeds gave: when it makes a verdict depend on them, and when it says nothing."""

from tpscope.frameworks.merge import NO_ANSWER
from tpscope.language.answer import Failure
from tpscope.language.proof import Cause, ParameterProof, ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.prove import seeds

OWN, ALIKE, AGAIN = [11, 12], [0, 0], [13, 14]


def answer(verdict, said=""):
    error = Failure("ProcessDied", said, "run") if said else None
    return ProofAnswer("some@1", "a-model", "plain", 2, verdict, error=error)


def causes(found):
    return [item.cause for item in found.diagnosis]


def test_another_verdict_under_equal_seeds_is_the_first_cause():
    found = seeds.judged(answer(Verdict.DIFFERENT), OWN, [(answer(Verdict.EQUAL), ALIKE)])
    assert causes(found) == [Cause.HASH_SEED]
    assert found.diagnosis[0].repaired


def test_the_same_verdict_under_all_seeds_names_none():
    assert not causes(seeds.judged(answer(Verdict.DIFFERENT), OWN, [(answer(Verdict.DIFFERENT), ALIKE)]))


def test_a_run_that_was_given_up_says_nothing_of_the_seed():
    late = answer(Verdict.CRASHED, f"{NO_ANSWER} 60 s; ranks 0, 1 wait in wait")
    others = [(late, ALIKE), (answer(Verdict.DIFFERENT), AGAIN)]
    found = seeds.judged(answer(Verdict.DIFFERENT), OWN, others)
    assert not causes(found)
    assert [item["verdict"] for item in found.measured["hash_seeds"]] == ["different", "crashed", "different"]


def test_a_crash_of_another_kind_does():
    died = answer(Verdict.CRASHED, "rank 1 ended with exit code 1")
    assert causes(seeds.judged(answer(Verdict.DIFFERENT), OWN, [(died, ALIKE)])) == [Cause.HASH_SEED]


def test_a_hang_that_equal_seeds_cure_depends_on_them():
    hung = answer(Verdict.CRASHED, f"{NO_ANSWER} 60 s; rank 0 waits in all_reduce")
    assert causes(seeds.judged(hung, OWN, [(answer(Verdict.EQUAL), ALIKE)])) == [Cause.HASH_SEED]


def with_rows(**errors):
    found = answer(Verdict.DIFFERENT)
    found.parameters = [ParameterProof(name, error, 1e-9, True) for name, error in errors.items()]
    return found


def test_a_run_under_equal_seeds_that_differs_alike_needs_no_third():
    assert seeds.same(with_rows(norm=0.5, head=0.0), with_rows(norm=0.5000001, head=0.0))


def test_other_parameters_other_errors_or_another_verdict_need_one():
    first = with_rows(norm=0.5, head=0.0)
    assert not seeds.same(first, with_rows(norm=0.0, head=0.5))
    assert not seeds.same(first, with_rows(norm=0.6, head=0.0))
    assert not seeds.same(first, answer(Verdict.EQUAL))
