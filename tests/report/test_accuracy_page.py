"""docs/accuracy.md says what the recorded rows say, goals missed included."""

from dataclasses import replace

from tpscope.price.accuracy import Recorded
from tpscope.price.check import Accuracies, Held, LeftOut, accuracy
from tpscope.report.accuracy_page import page


def held(framework, ms, predicted, used=False, sequence=4096, spread=0.01):
    model = "llama-3.1-8b" if used else "qwen3-8b"
    return Held(
        f"{framework} {model} tp=2 seq={sequence}", f"{model} {sequence}", used, ms, predicted, predicted / ms - 1,
        2 * 2**30, 2 * 2**30, 0.0, ms * (1 - spread), ms * (1 + spread), "compute",
    )  # fmt: skip


def recorded(*cases):
    answer = Accuracies("h200", "calibrated", list(cases))
    answer.left_out = [LeftOut("nemo@0.7.0 qwen3-8b compiled", "", "compiled: no", True, 99.0, 2**30)]
    answer.accuracy = accuracy([item for item in cases if not item.used])
    answer.calibrated_on = accuracy([item for item in cases if item.used])
    return Recorded("python -m x", ["NVIDIA H200 x2"], ["2.11.0"], "H200", {"dispatch.gap": 1e-6}, ["a"], answer)


def test_goals_that_are_met_are_not_said_to_be_missed():
    cases = [held("a", 100.0, 101.0), held("b", 200.0, 199.0), held("a", 100.0, 100.0, used=True, sequence=2048)]
    text = page(recorded(*cases))
    assert "missed" not in text
    assert "every case of qwen3-8b\nand every one with seq=4096" in text
    assert "1 of 1 (100%)" in text


def test_goals_that_are_missed_and_pairs_that_are_turned_are_said():
    text = page(recorded(held("a", 100.0, 150.0), held("b", 120.0, 90.0)))
    assert "| time, median error | at most 10% | 37.5% (missed)" in text
    assert "0 of 1 (0%) (missed)" in text
    assert "- a qwen3-8b tp=2 seq=4096, 100 ms" in text


def test_a_pair_whose_repeats_overlap_counts_in_the_first_figure_only():
    text = page(recorded(held("a", 100.0, 150.0, spread=0.5), held("b", 120.0, 90.0)))
    assert "| of these, pairs whose repeats do not overlap | | no pair |" in text


def test_rows_of_other_hosts_stand_apart_and_change_no_goal():
    alone = recorded(held("a", 100.0, 101.0))
    both = replace(alone, elsewhere=Accuracies("h200", "calibrated", [held("a", 100.0, 170.0)]), sources=["once each"])
    assert "> once each" in page(both)
    assert "On other hosts" in page(both)
    assert "+70.0%" in page(both)
    assert "On other hosts" not in page(alone)
    assert page(both).split("## Held out")[0] == page(alone).split("## Held out")[0]


def test_compiled_cases_stand_beside_as_not_modelled():
    text = page(recorded(held("a", 100.0, 100.0)))
    assert "| nemo@0.7.0 qwen3-8b compiled | default | 99 | 1.0 | not modelled: compiled |" in text
