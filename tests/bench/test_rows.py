"""Rows and the journal beside them."""

import json
import re
import sys
from pathlib import Path

import pytest

from tpscope.bench.cases import Build, Case
from tpscope.bench.rows import Entry, Journal, Result, Setting, append, portable, row

ROOT = Path(__file__).parents[2]

SETTING = Setting("nemo@0.7.0", "NVIDIA H200 x2", "2.11.0", {"torch": "2.11.0"}, "torchrun ...", "abc1234")
CASE = Case(Build("llama-3.1-8b", 2), 8192)


def measured(times, peak, loss=1.0, disturbed=None):
    flags = disturbed or [False] * len(times)
    return {
        "forward_backward": times, "forward": times, "disturbed": flags, "first": 9.0, "step": [], "step_name": "",
        "slowdown": [1.0] * len(times),
        "step_error": None, "loss": loss, "memory": {"peak_bytes": peak}, "model_class": "m.M", "notes": [],
    }  # fmt: skip


def test_a_row_has_the_fields_that_price_reads():
    made = row(SETTING, CASE, 3, Result([measured([1.0, 3.0, 2.0], 7)], None, 32, "MaskedCrossEntropy"))
    wanted = {
        "row": "case", "framework": "nemo@0.7.0", "model": "llama-3.1-8b", "batch": 1, "sequence": 8192,
        "layout": {"tp": 2, "sequence_parallel": False}, "dtype": "bfloat16", "compiled": False, "layers": 32,
        "loss": "MaskedCrossEntropy", "scope": "forward-backward", "hardware": "NVIDIA H200 x2", "torch": "2.11.0",
        "milliseconds": {"median": 2.0, "low": 1.0, "high": 3.0, "repeats": 3}, "memory": {"peak_bytes": 7},
        "loss_value": 1.0, "order": 3, "commit": "abc1234", "error": None, "rehearsal": False,
    }  # fmt: skip
    assert {key: made[key] for key in wanted} == wanted
    assert {"packages", "command", "date"} <= set(made)


def test_a_step_takes_as_long_as_its_slowest_rank():
    both = [measured([1.0, 4.0], 7), measured([3.0, 2.0], 9)]
    made = row(SETTING, CASE, 0, Result(both))
    assert made["milliseconds"]["low"] == 3.0
    assert made["milliseconds"]["high"] == 4.0
    assert made["memory"]["peak_bytes"] == 9
    alone = row(SETTING, CASE, 0, Result(both[:1]))
    assert alone["milliseconds"]["low"] == 1.0


def test_repeats_beside_a_neighbour_are_left_out_and_counted():
    flags = [True, False, False, False, False, False]
    made = row(SETTING, CASE, 0, Result([measured([9.0, 1.0, 2.0, 3.0, 4.0, 5.0], 7, disturbed=flags)]))
    assert made["milliseconds"] == {"median": 3.0, "low": 1.0, "high": 5.0, "repeats": 5}
    said = {"repeats": 1, "left_out": 1, "median_of_all": 3.5, "slowdown": [1.0] * 6}
    assert made["disturbed"] == said | {"milliseconds": [9.0, 1.0, 2.0, 3.0, 4.0, 5.0]}


def test_with_too_few_quiet_repeats_all_of_them_count():
    flags = [True, True, False, False, False, False]
    made = row(SETTING, CASE, 0, Result([measured([9.0, 8.0, 2.0, 3.0, 4.0, 5.0], 7, disturbed=flags)]))
    assert made["milliseconds"]["repeats"] == 6
    assert made["disturbed"]["repeats"] == 2
    assert made["disturbed"]["left_out"] == 0


def test_a_case_with_an_error_has_a_row_and_no_time():
    made = row(SETTING, CASE, 0, Result(error="rank 1: OutOfMemoryError"))
    assert made["error"] == "rank 1: OutOfMemoryError"
    assert made["milliseconds"] is None
    assert made["loss_value"] is None
    json.dumps(made)


def test_the_journal_knows_which_case_a_process_died_in(tmp_path):
    journal = Journal(tmp_path / "rows.jsonl", "one")
    journal.note(Entry("started", "one", 0))
    journal.write(0, {"row": "case"})
    journal.note(Entry("started", "one", 1))
    journal.note(Entry("failed", "one", 1, 1, "no end after 9 s"))
    again = Journal(tmp_path / "rows.jsonl", "one")
    assert again.finished() == {0}
    assert again.lost() == [1]
    assert again.failure(1) == "rank 1: no end after 9 s"
    assert again.failure(0) is None
    assert Journal(tmp_path / "rows.jsonl", "another").lost() == []


def test_a_run_began_when_its_first_process_did(tmp_path):
    journal = Journal(tmp_path / "rows.jsonl", "one")
    assert journal.began(100.0) == 100.0
    assert Journal(tmp_path / "rows.jsonl", "one").began(200.0) == 100.0


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("--site /data/site-nemo --out /data/out/rows.jsonl", "--site site-nemo --out rows.jsonl"),
        ('File "/venv/lib/python3.12/site-packages/torch/amp/mode.py", line 3', 'File "torch/amp/mode.py", line 3'),
        ('File "/data/site-nemo/nemo_automodel/utils.py", line 7', 'File "nemo_automodel/utils.py", line 7'),
        ("--out=/data/rows.jsonl", "--out=rows.jsonl"),
        # What is no folder of this machine stays.
        ("see https://docs.pytorch.org/docs/main/tensor.html", "see https://docs.pytorch.org/docs/main/tensor.html"),
        ("results/bench-h200.jsonl: 3 tokens/s, 1/2, a / b", "results/bench-h200.jsonl: 3 tokens/s, 1/2, a / b"),
    ],
)
def test_a_row_names_no_folder_of_its_machine(said, kept):
    assert portable({"error": [said]}, ["/data/site-nemo"]) == {"error": [kept]}


def test_a_written_row_is_without_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    append(tmp_path / "rows.jsonl", {"error": f"{tmp_path}/site/torch/a.py", "command": f"--out {tmp_path}/rows.jsonl"})
    written = json.loads((tmp_path / "rows.jsonl").read_text())
    assert written == {"error": "torch/a.py", "command": "--out rows.jsonl"}


def test_no_kept_row_names_a_folder_of_a_machine():
    folder = re.compile(r"(?<![\w./:~-])/(?:\w[\w.-]*/)+")
    rows = [
        (file, text) for file in sorted(ROOT.glob("results/bench-*.jsonl")) for text in file.read_text().splitlines()
    ]
    rows += [(file, file.read_text()) for file in sorted(ROOT.glob("results/calibration-*.jsonl"))]
    assert rows
    assert folder.search("File /data/a.py")
    assert not [(file.name, found[0]) for file, text in rows if (found := folder.search(text))]


def test_a_run_whose_command_names_folders_finds_its_own_entries(tmp_path):
    run = f"nemo@0.7.0 --out {tmp_path}/rows.jsonl"
    Journal(tmp_path / "rows.jsonl", run).write(0, {"row": "case"})
    assert Journal(tmp_path / "rows.jsonl", run).finished() == {0}
    assert Journal(tmp_path / "rows.jsonl", "another").finished() == set()
