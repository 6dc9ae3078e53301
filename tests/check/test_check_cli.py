"""`tpscope check` as a user meets it: exit codes, one sentence for a mistake, JSON that is all that is there."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

TPSCOPE = str(Path(sys.executable).with_name("tpscope"))
DATA = "tests/data/check"


def run(*arguments):
    return subprocess.run([TPSCOPE, "check", *arguments], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.yml"], "does not exist"),
        (["docs/check.md"], "docs/check.md"),
        (["tests/configs/biased-llama/config.json"], "tests/configs/biased-llama/config.json"),
        ([f"{DATA}/nemo/good/tp-full.yaml", "--with", "axolotl@0.19.0"], "is written for NVIDIA NeMo AutoModel"),
        ([f"{DATA}/nemo/good/tp-full.yaml", "--with", "nemmo"], "did you mean nemo"),
        ([f"{DATA}/nemo/good/tp-full.yaml", "--python", "/bin/false"], "--python"),
    ],
)
def test_a_mistake_of_the_user_is_one_sentence_and_exit_code_2(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.frameworks
@pytest.mark.xdist_group("check")
def test_json_on_standard_output_fits_its_schema():
    done = run(f"{DATA}/axolotl/bad/misspelt-tp.yml", "--world", "2", "--no-prove", "--json", "-")
    assert done.returncode == 1
    tree = json.loads(done.stdout)
    jsonschema.validate(tree, json.loads(Path("docs/schema/check.json").read_text()))
    assert tree["schema"] == "tpscope.check/1"
    assert tree["framework"] == "axolotl@0.19.0"
    (finding,) = [item for item in tree["findings"] if item["severity"] != "note"]
    assert finding["where"].endswith("misspelt-tp.yml:3")
    assert finding["evidence"][0]["path"] == "axolotl/utils/schemas/config.py"


@pytest.mark.frameworks
@pytest.mark.xdist_group("check")
def test_a_good_file_is_exit_code_0():
    assert run(f"{DATA}/axolotl/good/full-fsdp.yml", "--world", "8", "--no-prove").returncode == 0
