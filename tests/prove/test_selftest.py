"""The self-test: what it breaks must be found and named, and nothing said of what it did not break."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tpscope.errors import UserError
from tpscope.frameworks.inside.proof.mutations import MENDED, MUTATIONS
from tpscope.language.proof import Cause, Diagnosis, ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.prove import faults
from tpscope.prove.selftest import SelfTest, _take, cases, named
from tpscope.render import selftest as page

TPSCOPE = str(Path(sys.executable).with_name("tpscope"))


def run(*arguments):
    command = [TPSCOPE, "prove", "--self-test", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def answer(
    *causes, where="model.layers.*.self_attn.o_proj", repaired=True, places=("model.layers.0.self_attn.o_proj",)
):
    found = ProofAnswer("transformers@5.23.0", "phi-2", "plain", 2, Verdict.DIFFERENT)
    found.diagnosis = [Diagnosis(cause, where, [], "", "words", repaired) for cause in causes]
    found.measured["fault"] = {"kind": "forward-sum-dropped", "places": list(places)}
    return found


def fault(kind="forward-sum-dropped"):
    return next(fault for fault in faults.FAULTS if fault.kind == kind)


def test_every_fault_that_can_be_put_in_is_declared():
    assert sorted(fault.kind for fault in faults.FAULTS) == sorted(MUTATIONS)
    assert set(faults.MENDED.values()) == set(MENDED)
    assert len(MUTATIONS) >= 15
    assert len(faults.FULL) >= 6


def test_every_mutation_has_a_control_of_its_own_scenario():
    planned = cases(full=True)
    controls = {(c.target.id, c.model.name, c.scenario.name) for c, fault in planned if fault is None}
    assert {(c.target.id, c.model.name, c.scenario.name) for c, fault in planned if fault is not None} == controls
    assert len({case.name for case, _ in planned}) == len(planned)


def test_named_is_the_cause_at_its_place_and_no_other():
    places = ["model.layers.0.self_attn.o_proj"]
    assert named(fault(), answer(Cause.MISSING_SUM), places)
    assert not named(fault(), answer(Cause.MISSING_SUM, Cause.SCALED), places)
    assert not named(fault(), answer(Cause.UNKNOWN), places)
    assert not named(fault(), answer(), places)
    assert not named(fault(), answer(Cause.MISSING_SUM, where="model.layers.*.mlp.down_proj"), places)
    assert not named(fault(), answer(Cause.MISSING_SUM, repaired=False), places)
    assert named(fault("other-samples"), answer(Cause.DATA, repaired=False, places=()), [])


def test_what_is_missed_and_what_is_alarming_is_bad_and_is_printed(capsys):
    from rich.console import Console

    result = SelfTest()
    planned = cases(full=False, models=["phi-2"])
    control, broken = planned[0][0], planned[1][0]
    _take(result, control, None, answer(Cause.UNKNOWN))
    _take(result, broken, fault(), answer(Cause.SCALED))
    assert result.bad
    assert (len(result.alarms), len(result.missed)) == (1, 1)
    page.show(result, Console(width=100))
    told = capsys.readouterr().out
    assert "1 mutations, 1 kinds on 1 architectures: 1 found, 0 named" in told
    assert "named scaled at model.layers.*.self_attn.o_proj" in told
    assert "false alarm" in told


def test_a_model_that_is_not_in_the_catalog_is_said():
    with pytest.raises(UserError, match="phi-2"):
        cases(full=False, models=["phi-22"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--with", "nemo@0.7.0"), "takes no --with"), (("--models", "qwen4-8b"), "qwen3-8b")],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.frameworks
@pytest.mark.xdist_group("columns")
def test_the_small_form_finds_and_names_everything_and_alarms_at_nothing(tmp_path):
    page = tmp_path / "selftest.json"
    done = run("--json", str(page))
    assert done.returncode == 0, done.stdout + done.stderr
    tree = json.loads(page.read_text())
    assert tree["schema"] == "tpscope.selftest/1"
    assert len({row["kind"] for row in tree["mutations"]}) >= 8
    assert {row["model"] for row in tree["mutations"]} == set(faults.SMALL)
    assert all(row["found"] and row["named"] for row in tree["mutations"])
    assert {row["verdict"] for row in tree["controls"]} == {"equal"}
    assert "found" in done.stdout
    assert "0 alarms" in done.stdout
