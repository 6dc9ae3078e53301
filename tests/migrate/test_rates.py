"""The schedule that a migration writes is the one that it came from, by the frameworks' own code."""

from pathlib import Path

import pytest
from batch import NAMES, moved

from tpscope.frameworks import registry
from tpscope.migrate.checks import Side
from tpscope.migrate.convert import OTHER
from tpscope.migrate.rates import compared
from tpscope.migrate.result import Standing
from tpscope.migrate.source import read

DATA = Path("tests/data/migrate")


def sides(name):
    source = read(DATA / name)
    other = OTHER[source.kind]
    before = Side(source.kind, registry.parse(NAMES[source.kind]), source.plain, name)
    return [before, Side(other, registry.parse(NAMES[other]), moved(DATA / name)[0], "the output")]


@pytest.mark.frameworks
@pytest.mark.xdist_group("migrate")
@pytest.mark.parametrize("name", ["axolotl/steps-and-warmup.yml", "axolotl/cosine-floor.yml", "nemo/linear.yaml"])
def test_the_rate_is_the_same_at_every_step(name):
    assert compared(sides(name), print).standing is Standing.OK


@pytest.mark.frameworks
@pytest.mark.xdist_group("migrate")
def test_a_schedule_that_is_not_the_same_is_told():
    before, after = sides("axolotl/steps-and-warmup.yml")
    after.data["lr_scheduler"]["init_lr"] = 1e-5
    assert compared([before, after], print).standing is Standing.TOLD
