"""Ten pairs of a model and a cluster: what is recommended passes `tpscope check`, and no recorded proof is against it.

All ten are asked by `python -m tpscope.report.guidance` and recorded; two are checked here again, on the frameworks.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from tpscope.check.ask import Asked as CheckAsked
from tpscope.check.run import check
from tpscope.language.verdict import Verdict
from tpscope.recommend.result import Standing
from tpscope.report import advice, guidance, prove_rows

ROOT = Path(__file__).resolve().parents[2]
ROWS = advice.read(ROOT)
PROOFS = prove_rows.Proofs(prove_rows.read(ROOT))
ADVISED = [row for row in ROWS if row.winner]


def named(row):
    return row.command.removeprefix("tpscope recommend ")


def test_ten_pairs_were_asked_and_each_question_has_its_answer():
    assert len({(row.model, row.world, *row.wishes) for row in ROWS}) >= 10
    assert guidance.missing(ROWS) == []
    assert len(guidance.missing(ROWS[1:])) == 1


def test_most_are_advised_something_and_some_nothing():
    assert len(ADVISED) >= 6
    assert all(row.nearest and row.mends for row in ROWS if row.winner is None)


@pytest.mark.parametrize("row", ADVISED, ids=named)
def test_a_recommended_config_passed_check(row):
    assert row.checked == Verdict.EQUAL
    assert [text for text in row.found if not text.startswith("note: ")] == []
    assert row.chosen.equal == len(row.chosen.ways)
    assert row.config


def test_none_is_advised_that_the_matrix_marks_otherwise():
    assert advice.contradicted(ROWS, PROOFS) == []
    looked_at = [row for row in ADVISED if PROOFS.cell(row.winner, row.model)]
    assert len(looked_at) == len(ADVISED), "the matrix knows every pair that is advised"


def test_advice_against_the_matrix_would_be_seen():
    row = next(row for row in ADVISED if row.model == "qwen3-8b")
    bad = replace(row, tried=[replace(row.chosen, framework="nemo@0.6.0")])
    assert "has its plain as different" in advice.contradicted([bad], PROOFS)[0]


def test_what_the_matrix_marks_different_is_out_and_named():
    """glm-4-9b is different under NeMo's base plan: it was a candidate, and is not the winner."""
    row = next(row for row in ROWS if row.model == "glm-4-9b")
    assert PROOFS.cell("nemo@0.7.0", "glm-4-9b").verdict is Verdict.DIFFERENT
    (item,) = [item for item in row.tried if item.framework == "nemo@0.7.0"]
    assert item.standing is Standing.OUT
    assert item.verdict == Verdict.DIFFERENT
    assert "nemo-fused-gate-up" in item.bugs


@pytest.mark.frameworks
@pytest.mark.xdist_group("recommend")
@pytest.mark.parametrize("row", [row for row in ADVISED if row.world == 2][:2], ids=named)
def test_a_recorded_config_passes_check_again(row, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(row.config)
    found = check(CheckAsked(file, row.world, row.winner))
    assert not found.bad
    assert found.verdict is Verdict.EQUAL


@pytest.mark.frameworks
@pytest.mark.xdist_group("recommend")
def test_a_config_with_a_word_misspelt_does_not_pass(tmp_path):
    row = next(row for row in ADVISED if row.winner.startswith("nemo"))
    file = tmp_path / "mine.yaml"
    file.write_text(row.config.replace("tp_size", "tp_sise"))
    found = check(CheckAsked(file, row.world, row.winner, prove=False))
    assert found.bad
    assert any("tp_sise is misspelt" in item.what for item in found.findings)
