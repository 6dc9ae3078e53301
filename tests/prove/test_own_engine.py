"""tpscope's engine goes through the same proofs as any framework: right is equal, faults put into it are found."""

import pytest

from tpscope.frameworks import registry
from tpscope.frameworks.world import Worlds
from tpscope.language.verdict import Verdict
from tpscope.models.read import read
from tpscope.prove.run import Case, Options, run
from tpscope.prove.scenarios import parse
from tpscope.prove.small import small

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]
MODEL = "qwen3-8b"
RIGHT = ("plain", "sequence-parallel", "accumulate", "lora", "fsdp", "pp", "cp")
BROKEN = ("gradient-sum-dropped", "gradients-scaled", "rows-rolled")


@pytest.fixture(scope="module")
def verdicts():
    model, target = read(MODEL)[0], registry.parse("tpscope")
    asked = [(name, "") for name in RIGHT] + [("plain", fault) for fault in BROKEN]
    cases = [Case(model, small(model, parse(name)), target, parse(name), 2, fault) for name, fault in asked]
    with Worlds() as worlds:
        found = run(cases, Options(), worlds=worlds).cases
    return dict(zip(asked, found, strict=True))


@pytest.mark.parametrize("name", RIGHT)
def test_the_engine_trains_as_the_whole_model(verdicts, name):
    assert verdicts[name, ""].verdict is Verdict.EQUAL, verdicts[name, ""].sentence


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_in_it_is_found(verdicts, fault):
    assert verdicts["plain", fault].verdict is Verdict.DIFFERENT


def test_it_is_one_column_more_and_no_framework_to_compare():
    assert registry.parse("tpscope").id.startswith("tpscope@")
    assert "tpscope" not in registry.families()
