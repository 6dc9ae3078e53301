"""Experiments: rows replace only their own, the page says what they say, and what they count is seen to be counted."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

from tpscope.compare.run import Pool
from tpscope.frameworks import registry, runner
from tpscope.frameworks.inside.experiments.branches import branches
from tpscope.frameworks.inside.experiments.watch import Steps, Watch
from tpscope.language.answer import TrailLine
from tpscope.language.measured.cost import Again, Costs, LevelCost, Times
from tpscope.report import build, prove_rows, register, study, verify
from tpscope.report.citations import citations
from tpscope.report.experiments import complexity, store
from tpscope.report.experiments.asking import Asker, command
from tpscope.report.experiments.complexity_rows import (
    CASCADE,
    STRATEGY,
    TABLE,
    Complexity,
    Logged,
    Ran,
    Settings,
    Toggled,
    Way,
)
from tpscope.report.experiments.cost_rows import Cost
from tpscope.report.experiments.patterns import patterns
from tpscope.report.facts import Study
from tpscope.report.judges import cost as judge
from tpscope.report.judges.view import View
from tpscope.report.rows import Provenance
from tpscope.report.runs import FRAMEWORKS
from tpscope.report.sections import complexity as section
from tpscope.report.text import duration, percent

ROOT = Path(__file__).resolve().parents[2]
MADE = Provenance("0123abc", "2026-01-02", {"cpus": 3, "platform": "a machine"})
WHERE = TrailLine("pkg/plans.py", 41, "choose", "log.info('the plan')")


def head(framework, name):
    return {"framework": framework, "command": command(name, framework), "made": MADE}


def cost(framework="nemo@0.7.0", chose_again=(), until="the optimizer step"):
    levels = [
        LevelCost("optimized", "nothing is changed", 11, Times(300.0, 250.0, 900.0, 9), 53),
        LevelCost("custom", "a plan is handed over", 11, Times(100.0, 90.0, 200.0, 9), 6),
    ]
    times = Times(100_000.0, 90_000.0, 200_000.0, 5)
    again = Again(until, 480, 5, 18, list(chose_again))
    return Cost(
        **head(framework, "cost"), model="llama-3.1-8b", tp=2, load=(1.0, 2.0),
        found=Costs("optimized", levels, times, times, times, again),
    )  # fmt: skip


def counted(framework="nemo@0.7.0", says="Using the optimized plan"):
    settings = Settings(
        "pkg.Config", "every field", True, [Toggled("tp_plan", "one", ["m"], []), Toggled("other", "True")]
    )
    logged = [Logged("choice", "INFO", "pkg", WHERE, says, ["m"])] if says else []
    return Complexity(
        **head(framework, "complexity"), models={"m": "optimized"}, settings=settings, logged=logged,
        ran=[Ran("choice", {"pkg/plans.py": 12}, 3, {"if": 4}, 3, 1)],
        ways=[Way("setting", ["Config.tp_plan"], {"m": True})],
    )  # fmt: skip


def test_an_experiment_replaces_only_its_own_kind_and_framework(tmp_path):
    store.record(tmp_path, [cost("nemo@0.2.0"), cost(), counted()])
    newer = dataclasses.replace(cost(), tp=8)
    store.record(tmp_path, [newer])
    kept = store.read(tmp_path)
    assert newer in kept
    assert cost("nemo@0.2.0") in kept
    assert counted() in kept
    assert cost() not in kept


def test_a_row_survives_its_file_and_others_are_not_taken_for_one():
    for row in (cost(), counted()):
        (text,) = store.text_of([row]).splitlines()
        assert store.is_row(text)
        assert store.read_line(text) == row
        assert not prove_rows.is_row(text)
    assert not store.is_row('{"row": "run"}')


def test_proofs_do_not_depend_on_experiments_but_on_what_proves():
    inside = Path(runner.__file__).parent / "inside"
    files = {file.relative_to(inside).parts[0] for pattern in runner._PROVES for file in inside.glob(pattern)}
    assert "experiments" not in files
    assert {"proof", "case.py"} <= files
    assert runner.proof_digest() != runner.inside_digest()


def test_q1_is_nothing_in_a_step_unless_a_step_entered_the_choice():
    view = View(Study([], (), [cost()]), "nemo@0.7.0", "")
    wanted = "nothing in a step; once, 0.28 % of a two-layer step, 0.18 % above the fastest level"
    assert judge.hierarchy(view).verdict == wanted
    assert "200 µs above the fastest, custom" in judge.hierarchy(view).words
    bad = View(Study([], (), [cost(chose_again=["pkg/plans.py:choose"])]), "nemo@0.7.0", "")
    assert judge.hierarchy(bad).verdict.startswith("1 functions again in every step")
    assert "pkg/plans.py:choose" in judge.hierarchy(bad).words


def test_q1_says_how_far_a_step_came_that_did_not_reach_the_optimizer():
    view = View(Study([], (), [cost(until="the backward, where it raised KeyError")]), "nemo@0.7.0", "")
    assert "traced up to the backward, where it raised KeyError" in judge.hierarchy(view).verdict


def test_no_row_no_answer():
    (found,) = [item for item in register.answered(Study([])) if item.id == "Q1"]
    assert found.verdict == ""
    assert found.verbs == ("experiments.cost",)
    page = study.page([])
    assert "Not measured yet (experiments.cost)." in page
    assert "| Q1 | what does the plan hierarchy cost? | not measured yet (experiments.cost) |" in page


def test_the_page_says_what_the_rows_say():
    text = "\n".join(section.lines(Study([], (), [cost(), counted()])))
    assert "| optimized | nothing is changed | 11 | 53 | 300 µs (250 µs to 0.9 ms) | 200 µs | 0.28 % |" in text
    assert "0 of 5" in text
    assert "`tp_plan` (plan)" in text
    assert "`other`" in text
    assert "not announced" not in text
    assert command("cost", "nemo@0.7.0") in text


@pytest.mark.parametrize("says", ["", "Sharded the embedding"])
def test_a_choice_that_no_record_names_is_not_announced(says):
    text = "\n".join(section.lines(Study([], (), [counted(says=says)])))
    assert "The choice is not announced at any level by: nemo@0.7.0." in text


def test_times_and_shares_are_said_with_two_digits():
    assert [duration(value) for value in (4.26, 26.1, 850.0, 530_000.0, 1_234_000.0)] == [
        "4.3 µs", "26 µs", "0.85 ms", "0.53 s", "1.2 s",
    ]  # fmt: skip
    assert percent(0.00031) == "0.031 %"


def test_lines_of_an_experiment_are_citations_and_its_commands_are_runs():
    row = counted()
    assert [item.place for item in citations([row])] == ["pkg/plans.py:41"]
    recorded = build.Recorded([], [], [row])
    known, unknown = row.command, command("complexity", "nemo@9.9.9")
    found = verify._commands("report.md", f"`{known}` and `{unknown}`", [known, unknown], recorded)
    assert [problem.what for problem in found] == [f"run `{unknown}`"]


def test_a_report_carries_experiments(tmp_path):
    file = tmp_path / "report.jsonl"
    file.write_text(build.Recorded([], [], [cost(), counted()]).text(), encoding="utf-8")
    assert build.read(file).experiments == [cost(), counted()]


SOURCE = """
TABLE = {"a": first, "b": second, "c": third}
SMALL = {"a": first, "b": second}


class Plan:
    def tp(self): return 0

class One(Plan):
    def tp(self):
        return 1

class Two(Plan):
    def tp(self):
        return 2


def choose(kind):
    if kind == "plan":
        found = TABLE
    elif kind == "mesh":
        found = SMALL
    elif kind == "tp":
        found = One().tp()
    else:
        found = None
    return found


def other(number):
    for item in range(number):
        if item:
            number = item
    return number
"""


@pytest.fixture
def package(tmp_path):
    """A module of a made-up version of NeMo, imported from a folder that stands for an overlay."""
    path = tmp_path / "nemo_automodel" / "plans.py"
    path.parent.mkdir()
    path.write_text(SOURCE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("made_up_plans", path)
    module = importlib.util.module_from_spec(spec)
    vars(module).update(first=1, second=2, third=3)
    spec.loader.exec_module(module)
    return tmp_path, module


def test_patterns_are_seen_where_they_ran_and_nowhere_else(package):
    root, _ = package
    everything = set(range(1, len(SOURCE.splitlines()) + 1))
    found = {(one.what, one.name) for one in patterns(root, {"nemo_automodel/plans.py": everything})}
    assert found == {(TABLE, "TABLE"), (CASCADE, "choose"), (STRATEGY, "Plan")}
    assert patterns(root, {"nemo_automodel/plans.py": set()}) == []


def test_a_function_that_is_entered_is_watched_and_one_that_is_not_is_not(package):
    root, module = package
    watch = Watch([str(root)])
    with watch.on():
        module.choose("plan")
    module.other(2)
    assert dict(watch.entered) == {("nemo_automodel/plans.py", "choose"): 1}
    assert sys.getprofile() is None


def test_a_branch_goes_both_ways_only_if_both_were_taken(package):
    root, module = package
    steps = Steps([str(root)])
    with steps.on():
        module.other(2)
    by_kind = {one.kind: one for one in branches(steps)}
    assert by_kind["if"].taken
    assert by_kind["if"].passed
    once = Steps([str(root)])
    with once.on():
        module.other(1)
    (only,) = [one for one in branches(once) if one.kind == "if"]
    assert (only.reached, only.taken, only.passed) == (True, False, True)


def test_models_together_take_both_ways_of_a_branch():
    branch = {"path": "p", "line": 3, "kind": "if", "reached": True, "taken": True, "passed": False}
    one = {"lines": {"p": [3, 4]}, "functions": 1, "branches": [branch]}
    other = {"lines": {"p": [3, 6]}, "functions": 1, "branches": [{**branch, "taken": False, "passed": True}]}
    assert complexity.merged("choice", [one, other]) == Ran("choice", {"p": 3}, 1, {"if": 1}, 1, 1)
    assert complexity.merged("choice", [one, one]).both == 0


@pytest.fixture(scope="module")
def rows():
    return store.read(ROOT)


@pytest.fixture(scope="module")
def asker():
    with Pool(lambda kind, text: None) as pool:
        yield Asker("complexity", pool, MADE)


class TestRecorded:
    """The rows that are committed."""

    def test_every_framework_of_the_study_has_both_kinds(self, rows):
        for kind in ("cost", "complexity"):
            assert {row.framework for row in rows if row.row == kind} == set(FRAMEWORKS)
            assert not any(row.failed for row in rows if row.row == kind)

    def test_a_step_was_watched_before_it_is_said_to_enter_nothing(self, rows):
        for row in rows:
            if isinstance(row, Cost):
                assert row.found.again.calls > 0
                assert row.found.again.chosen > 0

    def test_the_same_question_gave_the_same_plan_twice_and_another_plan_another(self, rows):
        for row in rows:
            if isinstance(row, Complexity):
                assert row.settings.steady
                assert any(one.changes for one in row.settings.toggled)
                assert any(not one.changes and not one.untried for one in row.settings.toggled)


@pytest.mark.frameworks
class TestFrameworks:
    """Two real frameworks, asked anew."""

    def test_nemo_takes_a_plan_from_its_setting_and_axolotl_from_the_models_file_alone(self, asker):
        taken = {}
        for key in ("nemo@0.7.0", "axolotl@0.19.0"):
            answer = asker.ask("ways", registry.parse(key), "llama-3.1-8b", {})
            assert answer.error is None, answer.error
            taken[key] = {tuple(way["places"]): way["taken"] for way in answer.value["ways"]}
        assert taken["nemo@0.7.0"]["FSDP2Config.tp_plan",]
        assert not taken["nemo@0.7.0"]["base_model_tp_plan of config.json",]
        assert taken["axolotl@0.19.0"]["base_model_tp_plan of config.json",]
        assert not taken["axolotl@0.19.0"]["tp_plan of the YAML",]

    def test_nemo_announces_its_choice_and_axolotl_does_not(self, asker):
        said = {}
        for key in ("nemo@0.7.0", "axolotl@0.19.0"):
            answer = asker.ask("ran", registry.parse(key), "llama-3.1-8b", {})
            assert answer.error is None, answer.error
            said[key] = [one["says"] for one in answer.value["logged"] if one["phase"] == "choice"]
        assert any("optimized parallel plan" in words for words in said["nemo@0.7.0"])
        assert said["axolotl@0.19.0"] == []

    def test_an_experiment_that_is_not_there_is_an_answer(self, asker):
        answer = asker.ask("nosuch", registry.parse("nemo@0.7.0"), "llama-3.1-8b", {})
        assert answer.error.kind == "ModuleNotFoundError"
