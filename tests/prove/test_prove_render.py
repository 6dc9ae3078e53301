"""What users and CI machines see of proofs."""

import io
import json
from xml.etree import ElementTree

import pytest
from rich.console import Console

from tpscope.language.answer import Failure, TrailLine
from tpscope.language.proof import Cause, Depth, Diagnosis, ParameterProof, ProofAnswer, Shallower
from tpscope.language.verdict import Verdict
from tpscope.prove import words
from tpscope.prove.result import Proofs
from tpscope.render.document import document
from tpscope.render.junit import junit
from tpscope.render.proof import show


def different():
    rows = [
        ParameterProof(f"model.layers.{layer}.self_attn.q_norm.weight", 0.6 + layer, 1e-6, False) for layer in range(2)
    ]
    rows.append(ParameterProof("lm_head.weight", 1e-16, 1e-6, True))
    line = TrailLine("nemo/plan.py", 12, "plan", '"q_norm": SequenceParallel(),')
    found = Diagnosis(
        Cause.MISSING_SUM, "q_norm", [row.name for row in rows[:2]], "a part", "the sum over tp is never taken", True,
        [line], "all-reduce it",
    )  # fmt: skip
    case = ProofAnswer("nemo@0.6.0", "qwen3-8b", "plain", 2, Verdict.DIFFERENT, Depth.LOOP, loss_error=0.0)
    case.parameters, case.diagnosis = rows, [found]
    case.loss_tolerance, case.forward_error, case.forward_tolerance = 1e-7, 1e-16, 1e-6
    case.shallower = [Shallower(Depth.PLAN, Verdict.DIFFERENT, "so it is there")]
    case.sentence = words.sentence(case)
    return case


def equal(scenario="plain"):
    case = ProofAnswer("nemo@0.7.0", "qwen3-8b", scenario, 2, Verdict.EQUAL, Depth.LOOP, loss_error=0.0)
    case.parameters = [ParameterProof("lm_head.weight", 1e-16, 1e-6, True)]
    case.sentence = words.sentence(case)
    return case


def crashed():
    where = TrailLine("axolotl/x.py", 3, "f", "raise ValueError")
    case = ProofAnswer(
        "axolotl@0.19.0", "phi-2", "lora", 2, Verdict.CRASHED, sentence="rank 1 failed alone (\x1b[0m<x>)"
    )
    case.error = Failure("ValueError", "x", "loop", where)
    case.rank_errors = {"0": "Connection closed", "1": "ValueError: x"}
    return case


def printed(*cases, width=100, interrupted=0):
    out = io.StringIO()
    show(Proofs(list(cases), interrupted=interrupted), Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_a_block_names_cause_lines_and_mend(width):
    text = printed(different(), width=width)
    together = " ".join(text.split())
    for said in (
        "nemo@0.6.0 qwen3-8b plain tp=2 DIFFERENT (loop)",
        "the loss is exact; 2 of 3 parameters differ (gradient)",
        "the ranks disagree",
        "layers.*.self_attn.q_norm",
        "missing-sum (repaired: with the mend the case is equal)",
        'nemo/plan.py:12: plan: "q_norm": SequenceParallel(),',
        "mend: all-reduce it",
        "at depth plan: different: so it is there",
    ):
        assert said in together, said
    assert all(len(line) <= width for line in text.splitlines())


def test_equal_is_said_of_the_cpu_and_of_these_paths_and_never_correct():
    text = printed(equal())
    assert "EQUAL on CPU, on these paths (loop)" in text
    assert "correct" not in text


def test_a_crash_shows_the_line_and_what_each_rank_said():
    text = printed(crashed())
    assert "axolotl/x.py:3: f: raise ValueError" in text
    assert "rank 0: Connection closed" in text


def test_many_cases_are_a_table_and_the_same_words_are_said_once():
    text = printed(*(equal(name) for name in ("plain", "clip", "step")), different(), crashed(), interrupted=3)
    assert "different missing-sum" in text
    assert text.count("the sum over tp is never taken") == 1
    assert "3 equal, 1 different, 1 crashed; interrupted, 3 not reached" in text


def test_junit_has_one_test_case_a_case():
    root = ElementTree.fromstring(junit(Proofs([equal(), different(), crashed()])).split("\n", 1)[1])
    suite = root.find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    fine, wrong, broken = suite.findall("testcase")
    assert len(fine) == 0
    assert wrong.find("failure").get("message") == different().sentence
    assert "nemo/plan.py:12" in wrong.find("failure").text
    assert "<x>" in broken.find("error").get("message")


def test_a_number_that_is_none_is_null():
    case = different()
    case.parameters[0].error, case.loss_error = float("nan"), float("inf")
    tree = json.loads(document(Proofs([case])), parse_constant=pytest.fail)
    assert tree["cases"][0]["parameters"][0]["error"] is None
