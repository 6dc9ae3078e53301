"""`tpscope recommend` on real frameworks: what it advises is proven and passes check; what is not equal never wins."""

import subprocess
import sys
from pathlib import Path

import pytest

from tpscope.check.ask import Asked as CheckAsked
from tpscope.check.run import check
from tpscope.language.verdict import Verdict
from tpscope.recommend import trial
from tpscope.recommend.ask import Asked
from tpscope.recommend.result import Standing
from tpscope.recommend.run import recommend

TPSCOPE = str(Path(sys.executable).with_name("tpscope"))
pytestmark = [pytest.mark.frameworks, pytest.mark.xdist_group("recommend")]
# docs/recommend.md shows the first, and test_ten_pairs.py checks what was recorded.
GOOD = [Asked("llama-3.1-8b", 8, lora=True), Asked("llama-3.1-8b", 8), Asked("qwen3-8b", 8)]


@pytest.mark.sweep
@pytest.mark.parametrize("asked", GOOD, ids=lambda asked: asked.command)
def test_what_is_recommended_is_equal_in_every_way_and_passes_check(asked, tmp_path):
    result = recommend(asked)
    chosen = result.chosen
    assert chosen is not None
    assert chosen.equal
    assert chosen.layout["tp"] * chosen.layout["dp_shard"] == asked.world
    file = tmp_path / "mine.yaml"
    file.write_text(result.config)
    found = check(CheckAsked(file, asked.world, result.winner))
    assert not found.bad
    assert found.verdict is Verdict.EQUAL
    assert [case.scenario for case in found.cases] == chosen.ways
    for item in result.candidates:
        assert item.equal == (item.standing in (Standing.RECOMMENDED, Standing.FIT)) or (
            item.standing is Standing.REFERENCE
        )
        assert item.reason


def test_a_version_that_prove_marks_different_never_wins_even_alone():
    result = recommend(Asked("qwen3-8b", 8, with_=("nemo@0.6.0",)))
    assert result.bad
    assert result.winner is None
    assert result.config == ""
    (item,) = result.candidates
    assert item.failed is not None
    assert item.failed.verdict is Verdict.DIFFERENT
    assert "nemo-qk-norm-gradients" in [bug.id for bug in item.bugs if bug.shown]
    assert any("0.7.0" in mend for mend in result.mends)
    assert "tp_size: 1" in result.fallback


@pytest.mark.sweep
def test_a_version_that_is_different_stands_behind_one_that_is_equal():
    result = recommend(Asked("qwen3-8b", 8, with_=("nemo@0.6.0", "nemo@0.7.0")))
    assert result.winner == "nemo@0.7.0"
    assert [item.standing for item in result.candidates] == [Standing.RECOMMENDED, Standing.OUT]


def test_a_config_that_check_does_not_pass_is_not_recommended(monkeypatch):
    def misspelt(*arguments):
        return real(*arguments).replace("  tp_size", "  tp_sise: 2\n  tp_size")

    real = trial.written
    monkeypatch.setattr(trial, "written", misspelt)
    result = recommend(Asked("llama-3.1-8b", 8, with_=("nemo@0.7.0",)))
    assert result.winner is None
    (item,) = result.candidates
    assert item.equal
    assert "tpscope check finds of its config: distributed.tp_sise" in item.reason


def test_where_nobody_shards_a_model_right_that_is_the_answer():
    result = recommend(Asked("gemma-3-1b", 4, tp=2))
    assert result.bad
    assert result.nearest
    assert all(item.standing in (Standing.OUT, Standing.REFERENCE) for item in result.candidates)
    assert any("no tensor parallelism" in mend for mend in result.mends)


def test_a_framework_that_takes_no_plan_of_ones_own_is_out_where_one_is_wanted():
    result = recommend(Asked("qwen3-8b", 8, own_plan=True, with_=("axolotl@0.19.0", "nemo@0.7.0")))
    assert result.winner == "nemo@0.7.0"
    reasons = [item.reason for item in result.candidates if item.framework == "axolotl@0.19.0"]
    assert any("takes no plan of your own" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["lama-3.1-8b", "--world", "8"], 2, "llama-3.1-8b"),
        (["llama-3.1-8b", "--world", "3"], 2, "no tp of 2 or more divides"),
        (["llama-3.1-8b", "--world", "8", "--with", "transformers"], 2, "have training YAMLs"),
        (["llama-3.1-8b", "--world", "8", "--with", "nemmo"], 2, "did you mean nemo"),
    ],
)
def test_a_mistake_of_the_user_is_one_sentence_and_exit_code_2(arguments, code, words):
    done = subprocess.run([TPSCOPE, "recommend", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
