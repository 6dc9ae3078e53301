"""Every config of the corpus converts, accounts for every key, and the target's own loader accepts the output.

A reading takes seconds: some files of each side are read here, all of them with TPSCOPE_SWEEP=1 (`make sweep`).
"""

import os

import pytest
from batch import files, moved, read_all, world_of

from tpscope.migrate.checks import other_branch
from tpscope.migrate.convert import OTHER
from tpscope.migrate.source import read

EVERY = 1 if os.environ.get("TPSCOPE_SWEEP") else 3
# What is here no fault of the output: what only a GPU machine has.
HERE = ("in this environment", "is not installed", "No module named")


@pytest.mark.parametrize("kind", ["axolotl", "nemo"])
def test_the_corpus_is_large_enough(kind):
    assert len(files(kind)) >= 40


@pytest.mark.parametrize(
    "path", [*files("axolotl"), *files("nemo")], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_key_of_the_corpus_is_known_and_accounted_for(path):
    data, draft, unknown, _ = moved(path)
    assert not unknown
    told = {field.source for field in draft.fields}
    assert {leaf.path for leaf in read(path).leaves} <= told
    assert data


@pytest.mark.frameworks
@pytest.mark.parametrize("kind", ["axolotl", "nemo"])
def test_the_target_accepts_what_was_made_of_the_corpus(kind):
    chosen = files(kind)[::EVERY]
    outputs = [moved(path)[0] for path in chosen]
    answers = read_all(OTHER[kind], outputs, [world_of(path) for path in chosen])
    problems = [
        (path.name, item.key, item.message)
        for path, data, answer in zip(chosen, outputs, answers, strict=True)
        for item in answer.findings
        if (item.raises or item.kind == "unknown")
        and not other_branch(item, data)
        and not any(word in item.message for word in HERE)
    ]
    assert not problems
    assert not any(answer.error for answer in answers)


@pytest.mark.frameworks
def test_an_output_that_the_target_refuses_would_be_seen():
    data = moved(files("axolotl")[0])[0]
    data["optimizer"]["no_such_argument"] = 1
    (answer,) = read_all("nemo", [data], [8])
    assert any(item.raises and item.key == "optimizer.no_such_argument" for item in answer.findings)
