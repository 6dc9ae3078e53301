from pathlib import Path

import pytest
from rank_pool import Ranks

PLANS = Path(__file__).parent / "plans"


@pytest.fixture(scope="session")
def ranks():
    found = Ranks()
    yield found
    found.close()


@pytest.fixture(scope="session")
def plans():
    """`plans(name, tp)`: the plan that `derive.py` derived and wrote."""
    return lambda name, tp: (PLANS / f"{name}-tp{tp}.yaml").read_text(encoding="utf-8")
