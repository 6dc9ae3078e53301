"""Warm workers for the whole run: each framework is imported once."""

import pytest

from tpscope.compare.ask import Wishes, question
from tpscope.compare.run import Pool, compare
from tpscope.frameworks import registry


@pytest.fixture(scope="session")
def pool():
    with Pool(lambda kind, text: None) as warm:
        yield warm


@pytest.fixture(scope="session")
def ask(pool):
    """`ask("qwen3-8b", "nemo@0.7.0", ..., tp=2)`: the comparison, by real frameworks."""

    def run(model, *names, **wishes):
        return compare(question(model, Wishes(**{"tp": 2, **wishes})), [registry.parse(name) for name in names], pool)

    return run
