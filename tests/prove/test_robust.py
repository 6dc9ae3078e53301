"""One batch with a real framework in which one rank hangs, one asserts and one is killed: all other cases finish."""

import shutil
from pathlib import Path

import pytest

from tpscope.frameworks import registry
from tpscope.language.verdict import Verdict
from tpscope.models.read import read
from tpscope.prove import seeds
from tpscope.prove.run import Options, matrix, run
from tpscope.prove.scenarios import parse

pytestmark = [pytest.mark.frameworks, pytest.mark.xdist_group("worlds")]
DOES = {
    "hangs": "__import__('time').sleep(1000)",
    "asserts": "assert input_ids is None",
    "dies": "__import__('os').kill(__import__('os').getpid(), 9)",
}


def model(folder, does):
    """A model whose own code does something on rank 1, as a user's custom code might."""
    shutil.copytree(Path("tests/configs/remote-code"), folder)
    code = (folder / "modeling_tiny.py").read_text()
    start = "    def forward(self, input_ids, attention_mask=None, position_ids=None, labels=None, **kwargs):\n"
    assert start in code
    line = f"        if __import__('os').environ['RANK'] == '1':\n            {does}\n"
    (folder / "modeling_tiny.py").write_text(code.replace(start, start + line))
    return read(str(folder), trust_remote_code=True)[0]


def test_one_rank_that_fails_costs_its_case_only(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "may_matter", lambda answer: False)
    bad = {name: model(tmp_path / name, does) for name, does in DOES.items()}
    models = [bad["hangs"], read("llama-3.1-8b")[0], bad["asserts"], bad["dies"], read("qwen3-8b")[0]]
    target = registry.parse("transformers@5.23.0")
    result = run(matrix(models, [target], [parse("plain")], [2]), Options(fresh=True, seconds=25))
    hangs, llama, asserts, dies, qwen = result.cases
    assert llama.verdict == qwen.verdict == Verdict.EQUAL
    assert hangs.verdict == asserts.verdict == dies.verdict == Verdict.CRASHED
    assert hangs.sentence.startswith("no answer within 25 s; ")
    assert "rank 1 waits in forward" in hangs.sentence
    assert asserts.sentence.startswith("rank 1 failed alone (")
    assert "assert input_ids is None" in asserts.rank_errors["1"]
    assert dies.sentence.startswith("rank 1 was killed by signal 9 (SIGKILL)")
