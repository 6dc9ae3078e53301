"""The command line as a user meets it: exit codes, one sentence for a mistake, never a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TPSCOPE = str(Path(sys.executable).with_name("tpscope"))


def run(*arguments, **options):
    return subprocess.run([TPSCOPE, *arguments], capture_output=True, text=True, timeout=300, **options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "llama-3.1-9b", "--tp", "2"], "llama-3.1-8b"),
        (["compare", "llama-3.1-8b", "--tp", "2", "--with", "nemmo"], "did you mean nemo"),
        (["compare", "llama-3.1-8b", "--tp", "3", "--dp-shard", "2", "--world", "8"], "multiplies to 6"),
        (["compare", "llama-3.1-8b", "--lora", "rank=16"], "'rank=16' is not one of"),
        (["compare", "llama-3.1-8b", "--lora", "r=many"], "whole numbers"),
        (["compare", "llama-3.1-8b", "--custom-plan", "nowhere.py:PLAN"], "there is no file nowhere.py"),
        (["compare", "llama-3.1-8b", "--custom-plan", "plan.py"], "path.py:name"),
        (["compare", "tests/configs/malformed"], "config.json:"),
        (["compare", "llama-3.1-8b", "--python", "/bin/false"], "--python"),
        (["frameworks", "show", "nemo@9.9.9"], "is not installed"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_traceback_only_by_debug():
    assert "Traceback" in run("compare", "llama-3.1-9b", "--debug").stderr


@pytest.mark.frameworks
def test_json_on_standard_output_is_all_that_is_there(tmp_path):
    done = run("compare", "llama-3.2-1b", "--tp", "2", "--with", "axolotl@0.19.0", "--json", "-")
    assert done.returncode == 0
    tree = json.loads(done.stdout)
    assert tree["schema"] == "tpscope.compare/1"
    assert tree["frameworks"][0]["status"] == "refused"


@pytest.mark.frameworks
def test_files_are_written_whole_and_named(tmp_path):
    done = run(
        "compare", "llama-3.1-8b", "--tp", "2", "--with", "nemo@0.7.0",
        "--json", str(tmp_path / "a" / "x.json"), "--html", str(tmp_path / "x.html"),
        "--markdown", str(tmp_path / "x.md"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a" / "x.json").read_text())["model"]["name"] == "llama-3.1-8b"
    assert "<html" in (tmp_path / "x.html").read_text()
    assert (tmp_path / "x.md").read_text().startswith("# llama-3.1-8b")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.frameworks
def test_a_file_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(
        "compare", "llama-3.1-8b", "--tp", "2", "--with", "nemo@0.7.0", "--json", str(tmp_path / "file" / "x.json")
    )
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


@pytest.mark.frameworks
def test_why_shows_rules_and_executed_lines():
    done = run("compare", "qwen3-8b", "--tp", "2", "--with", "nemo@0.7.0", "--why", "q_norm")
    assert "tp_replicas.py:" in done.stdout
    assert "replicate_with_gradient_sum" in done.stdout
    assert "down_proj.weight" not in done.stdout.split("Why nemo")[0]


@pytest.mark.frameworks
def test_with_installed_runs_the_users_own_environment():
    done = run("compare", "llama-3.1-8b", "--tp", "2", "--python", sys.executable, "--json", "-")
    assert done.returncode == 0, done.stderr
    (column,) = json.loads(done.stdout)["frameworks"]
    assert column["id"] == "transformers@5.23.0 (installed)"
    assert column["status"] == "ok"


@pytest.mark.frameworks
def test_a_yaml_brings_model_layout_and_lora(tmp_path):
    config = tmp_path / "mine.yml"
    config.write_text(
        "base_model: meta-llama/Llama-3.1-8B\ntensor_parallel_size: 2\nadapter: lora\nlora_r: 8\nlora_alpha: 16\n"
        "lora_target_linear: true\n"
    )
    done = run("compare", str(config), "--with", "axolotl@0.19.0", "--json", "-")
    assert done.returncode == 0, done.stderr
    tree = json.loads(done.stdout)
    assert tree["layout"]["tp"] == 2
    assert tree["lora"]["r"] == 8
    assert tree["frameworks"][0]["lora"]["requested"] is True
