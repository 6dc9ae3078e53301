"""The command line of price: one sentence for a mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

TPSCOPE = str(Path(sys.executable).with_name("tpscope"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["llama-3.1-8b", "--hardware", "h20"], "did you mean h200"),
        (["llama-3.1-8b", "--hardware", "none.toml"], "there is no such file"),
        (["llama-3.1-9b"], "llama-3.1-8b"),
        (["llama-3.1-8b", "qwen3-8b"], "takes one INPUT"),
        (["--check", "none.jsonl"], "there is no such file"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, words):
    done = subprocess.run([TPSCOPE, "price", *arguments], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
