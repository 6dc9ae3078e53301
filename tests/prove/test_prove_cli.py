"""`tpscope prove` as a user meets it."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

TPSCOPE = str(Path(sys.executable).with_name("tpscope"))


def run(*arguments):
    return subprocess.run([TPSCOPE, "prove", *arguments], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["qwen3-8b", "--scenarios", "acumulate"], "did you mean accumulate?"),
        (["qwen3-8b", "--scenarios", "mask+packed"], "cannot be combined"),
        (["qwen3-8b", "--tp", "1"], "tp is 2 or more"),
        (["qwen3-8b", "--tp", "two"], "write whole numbers"),
        (["qwen4-8b"], "qwen3-8b"),
        (["--models", "qwen3-8b,qwen4-8b"], "qwen4-8b"),
        ([], "no model is named"),
        (["qwen3-8b", "--custom-plan", "nowhere.py:PLAN"], "there is no file nowhere.py"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_scenarios_are_listed_without_a_model():
    done = run("--list-scenarios")
    assert done.returncode == 0
    assert "sequence-parallel" in done.stdout


@pytest.mark.frameworks
@pytest.mark.xdist_group("worlds")
def test_bad_news_is_exit_code_1_and_stands_in_every_file(tmp_path):
    junit, page = tmp_path / "x.xml", tmp_path / "x.json"
    arguments = ("qwen3-8b", "--with", "transformers@5.23.0", "--scenarios", "plain,accumulate")
    done = run(*arguments, "--junit", str(junit), "--json", str(page))
    assert done.returncode == 1, done.stderr
    plain, accumulate = json.loads(page.read_text())["cases"]
    assert (plain["verdict"], accumulate["verdict"]) == ("equal", "different")
    assert accumulate["diagnosis"][0]["cause"] == "accumulation"
    assert accumulate["diagnosis"][0]["repaired"]
    assert len(ElementTree.parse(junit).findall(".//failure")) == 1
    assert "accumulation  (repaired" in done.stdout
