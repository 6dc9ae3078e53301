"""A user's plan reaches NeMo by an import path, and the other frameworks as the file that it is."""

import subprocess
import sys
from pathlib import Path

import pytest

from tpscope.frameworks.runner import Environment
from tpscope.frameworks.targets import resolve
from tpscope.language.proof import ProofRequest, Scenario
from tpscope.prove import own_plan


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setattr(own_plan, "cache_root", lambda: tmp_path / "cache")
    (tmp_path / "odd name.py").write_text("from beside import STYLE\nPLAN = {'a.b': STYLE}\n")
    (tmp_path / "beside.py").write_text("STYLE = 'colwise'\n")

    def ask(framework, path=(Path("/overlay"),), plan=f"{tmp_path / 'odd name.py'}:PLAN"):
        (target,) = resolve([framework], None)
        request = ProofRequest(target.id, target.version, "", "m", {}, 2, Scenario(), custom_plan=plan)
        return own_plan.importable(target, Environment(Path(sys.executable), path, (), "", {}), request)

    return ask


def test_nemo_gets_a_module_that_can_be_imported_whatever_the_file_is_called(asked):
    where, request, kind = asked("nemo@0.7.0")
    module, _, name = request.custom_plan.rpartition(".")
    code = f"import {module}; print({module}.{name})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(where.path[-1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "{'a.b': 'colwise'}"
    assert kind


@pytest.mark.parametrize(
    ("framework", "options"),
    [("transformers@5.23.0", {}), ("nemo@0.7.0", {"plan": None}), ("nemo@0.7.0", {"path": ()})],
    ids=["another framework", "no plan", "the user's own environment"],
)
def test_everything_else_stays_as_it_is(asked, framework, options):
    where, request, kind = asked(framework, **options)
    assert request.custom_plan is None or request.custom_plan.endswith("odd name.py:PLAN")
    assert len(where.path) == len(options.get("path", (1,)))
    assert kind == ""
