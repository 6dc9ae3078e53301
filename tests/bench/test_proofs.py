"""Proofs on devices ask what `tpscope prove` asks."""

import pytest

from tpscope.bench import proofs
from tpscope.bench.rows import Setting
from tpscope.language.proof import ParameterProof, ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.prove.scenarios import parse

SETTING = Setting("nemo@0.7.0", "NVIDIA H200 x2", "2.11.0", {}, "torchrun ...", "abc1234", ranks=2)


@pytest.mark.parametrize("scenario", proofs.SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_scenario_is_the_one_of_its_name(scenario):
    assert scenario == parse(scenario.name)


def answer(verdict, tolerance):
    found = ProofAnswer("nemo@0.7.0", "llama-3.1-8b", "plain", 2)
    found.verdict, found.sentence = verdict, "equal on CPU"
    found.parameters = [ParameterProof("w", 0.01, tolerance, True)]
    return found


def test_an_equal_case_whose_rounding_could_hide_a_missing_sum_is_inconclusive():
    case = proofs.ProofCase("llama-3.1-8b", proofs.SCENARIOS[0], "bfloat16")
    told = {
        tolerance: proofs._row(SETTING, case, 0, [answer(Verdict.EQUAL, tolerance)], 1.0) for tolerance in (0.2, 0.8)
    }
    assert told[0.2]["verdict"] == "equal"
    assert told[0.2]["sentence"] == "equal on NVIDIA H200 x2"
    assert told[0.8]["verdict"] == "inconclusive"
    assert told[0.8]["blind"] == ["w"]


def test_the_worst_rank_gives_the_verdict():
    case = proofs.ProofCase("llama-3.1-8b", proofs.SCENARIOS[0], "float32")
    both = [answer(Verdict.EQUAL, 0.1), answer(Verdict.CRASHED, 0.1)]
    assert proofs._row(SETTING, case, 0, both, 1.0)["verdict"] == "crashed"
