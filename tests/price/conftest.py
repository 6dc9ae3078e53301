"""Warm workers for the whole run, and what real ranks sent."""

import pytest

from tpscope.compare.ask import Wishes, question
from tpscope.compare.run import Pool
from tpscope.frameworks import registry
from tpscope.models.shrink import shrink


@pytest.fixture(scope="session")
def pool():
    with Pool(lambda kind, text: None) as made:
        yield made


@pytest.fixture(scope="session")
def traffic(pool):
    """`traffic(model, framework, ...)`: what two real ranks sent and what was traced of the same step, asked once."""
    asked = {}

    def run(model, framework, **wishes):
        key = (model, framework, *wishes.items())
        if key not in asked:
            one = question(model, Wishes(**{"tp": 2, **wishes}))
            options = {"batch": 1, "sequence": 32, "config": shrink(one.model.config).config}
            asked[key] = pool.experiment("traffic", one, registry.parse(framework), options)
        return asked[key]

    return run
