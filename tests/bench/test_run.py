"""Whole runs under torchrun, two ranks over gloo on this CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def torchrun(arguments, ranks=2, restarts=5, seconds=280):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1] / "src"), "TRANSFORMERS_VERBOSITY": "error"}
    return subprocess.run(
        [*command, "--max-restarts", str(restarts), *arguments],
        capture_output=True, text=True, timeout=seconds, env=environment, check=False,
    )  # fmt: skip


def rows_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def died(tmp_path_factory):
    out = tmp_path_factory.mktemp("died") / "rows.jsonl"
    done = torchrun([str(HERE / "dying.py"), "sum,raises,exits,hangs,sum", "--case-seconds", "10", "--out", str(out)])
    assert done.returncode == 0, done.stderr[-3000:]
    return rows_of(out)


def test_every_case_has_one_row_in_order_whatever_happened_to_it(died):
    assert [made["order"] for made in died] == [0, 1, 2, 3, 4]
    assert [made["loss"] for made in died] == ["sum", "raises", "exits", "hangs", "sum"]


def test_a_case_that_died_says_how_and_the_others_have_times(died):
    assert [made["error"] is None for made in died] == [True, False, False, False, True]
    assert "rank 1 raises and rank 0 waits for it" in died[1]["error"]
    assert "no end after 10 s" in died[3]["error"]
    assert died[0]["milliseconds"]["repeats"] == died[4]["milliseconds"]["repeats"] == 3


@pytest.mark.frameworks
def test_a_rehearsal_of_two_cases_runs_the_real_loader_and_says_what_it_is(tmp_path):
    out = tmp_path / "rows.jsonl"
    which = ["--with", "transformers@5.23.0", "--models", "qwen3-8b", "--repeats", "2", "--tiers", "0"]
    done = torchrun(["-m", "tpscope.bench", "--rehearse", *which, "--out", str(out)])
    assert done.returncode == 0, done.stderr[-3000:]
    plain = [made for made in rows_of(out) if made["loss"] == "ForCausalLMLoss"]
    assert len(plain) == 2
    for made in plain:
        assert made["rehearsal"]
        assert made["hardware"] == "CPU gloo x2"
        assert made["error"] is None
        assert made["model_class"] == "transformers.models.qwen3.modeling_qwen3.Qwen3ForCausalLM"
        # A model that was just initialised guesses: the loss is the logarithm of the small vocabulary.
        assert made["loss_value"] == pytest.approx(6.24, abs=0.1)
        assert made["loss_values_of_ranks"][0] == made["loss_values_of_ranks"][1]
        # More where a gradient is a view into the storage of a larger tensor.
        assert made["memory"]["gradients"] >= made["memory"]["weights"] > 0


@pytest.mark.parametrize("ranks", [1, 2], ids=["pretended", "gloo"])
def test_our_engine_is_measured_as_the_others_are(tmp_path, ranks):
    out = tmp_path / "rows.jsonl"
    which = ["--family", "tpscope", "--models", "qwen3-8b", "--repeats", "2", "--tiers", "0", "--sequences", "32"]
    which += ["--pretend", "2", "--layers", "3"] if ranks == 1 else []
    done = torchrun(["-m", "tpscope.bench", "--rehearse", *which, "--out", str(out)], ranks)
    assert done.returncode == 0, done.stderr[-3000:]
    plain, parallel = sorted(rows_of(out), key=lambda made: made["layout"]["sequence_parallel"])
    for made in (plain, parallel):
        assert made["error"] is None
        assert made["framework"].startswith("tpscope@")
        assert made["loss"] == "in chunks, without logits"
        assert made["pretended"] == (2 if ranks == 1 else None)
        assert made["layers"] == (3 if ranks == 1 else 2)
        if ranks == 2:
            assert made["loss_value"] == pytest.approx(6.24, abs=0.1)
            assert made["loss_values_of_ranks"][0] == made["loss_values_of_ranks"][1]
    whole = 512 * 128 * 2 + made["layers"] * (128 * 128 * 2 + 128 * 64 * 2 + 3 * 128 * 256)
    assert whole * 2 * 0.5 < plain["memory"]["weights"] < whole * 2 * 0.51


def test_without_a_device_and_without_rehearse_it_says_what_to_do(tmp_path):
    done = torchrun(["-m", "tpscope.bench", "--out", str(tmp_path / "rows.jsonl")], ranks=1, restarts=0)
    assert done.returncode != 0
    assert "error: no CUDA device is there; add --rehearse" in done.stderr
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_model_that_the_catalog_lacks_is_refused_in_one_sentence(tmp_path):
    arguments = ["--rehearse", "--models", "gpt-9", "--out", str(tmp_path / "rows.jsonl")]
    done = torchrun(["-m", "tpscope.bench", *arguments], ranks=1, restarts=0)
    assert "error: --models gpt-9: no such model in the catalog; it has " in done.stderr
    assert 'Traceback (most recent call last):\n  File "<frozen runpy>"' not in done.stdout


def test_dispatch_is_measured_beside_the_unsharded_model_in_one_process():
    command = [sys.executable, "-m", "tpscope.bench.dispatch", "--inside", "tpscope", "--sequence-parallel"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["framework"].startswith("tpscope@")
    assert found["unsharded"] > 0
    assert found["low"] <= found["ratio"] <= found["high"]
