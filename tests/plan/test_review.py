"""Broken plans are found broken, at the line that is marked in them; good ones are not."""

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from tpscope.errors import UserError
from tpscope.models.read import read
from tpscope.models.shrink import shrink
from tpscope.plan import foreign
from tpscope.plan.inside.derive import Deriver
from tpscope.plan.inside.prove import reference
from tpscope.plan.inside.review import Reviewer
from tpscope.plan.inside.subject import Sample, build
from tpscope.plan.result import Review, Severity
from tpscope.plan.review import located

pytestmark = pytest.mark.filterwarnings("ignore")
BROKEN = sorted(
    path for path in (Path(__file__).parent / "broken").iterdir() if path.suffix in (".py", ".json", ".yaml")
)
GOOD = [path for path in BROKEN if path.stem.endswith("_good")]


@cache
def reviewer(name):
    torch.set_num_threads(1)
    model = build(shrink(read(name)[0].config, experts=4).config, "eager")
    sample = Sample.of(model)
    return Reviewer(model, sample, reference(model, sample), Deriver(model, sample), 2)


def marks(path):
    """Model, and the findings that the file's own comments promise: (what, line)."""
    text = path.read_text()
    if path.suffix == ".json":
        tree = json.loads(text)
        lines = text.splitlines()
        first = {name: min(i for i, line in enumerate(lines, 1) if f'"{name}"' in line) for name in tree["here"]}
        return tree["model"], [(what, first[name]) for name, what in tree["here"].items()]
    found = [
        (match[1].strip(), i) for i, line in enumerate(text.splitlines(), 1) if (match := re.search("here: (.*)", line))
    ]
    return re.search(r"# model: (\S+)", text)[1], found


def reviewed(path):
    written = foreign.read(str(path))
    known = reviewer(marks(path)[0])
    outcome = known.review(written.given, written.form)
    located(known.findings, written)
    return outcome, known.findings


@pytest.mark.parametrize("path", [path for path in BROKEN if path not in GOOD], ids=lambda path: path.name)
def test_what_is_broken_is_found_at_its_line(path):
    _, findings = reviewed(path)
    bad = [(item.what, item.line) for item in findings if item.severity is not Severity.NOTE]
    wanted = marks(path)[1]
    assert wanted
    assert set(wanted) <= set(bad), bad


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_what_is_good_has_no_finding_but_notes(path):
    outcome, findings = reviewed(path)
    assert outcome.equal
    assert [item for item in findings if item.severity is not Severity.NOTE] == []


def test_there_are_25_broken_plans():
    assert len(BROKEN) - len(GOOD) >= 25


def test_a_review_is_bad_if_something_is_wrong_or_wasted_and_not_for_a_note():
    findings = reviewed(next(path for path in BROKEN if path.name == "hf_good.py"))[1]
    assert findings
    assert not Review("x", "m", 2, "M", findings, None).bad
    findings[0].severity = Severity.WASTE
    assert Review("x", "m", 2, "M", findings, None).bad


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.py", "PLAN = {", "no Python"),
        ("a.py", "PLAN = make()", "without running it"),
        ("a.py", "PLAN = {name: 'colwise'}", "written, not run"),
        ("a.json", "[1]", "no JSON object"),
        ("a.json", "{", "no JSON"),
        ("a.yaml", "x: 1", "no plan of"),
        ("a.json", "{}", "no rule"),
    ],
)
def test_what_is_no_plan_is_one_sentence(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said.replace("written, not run", "read, not run")):
        foreign.read(str(tmp_path / name))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"no file nowhere\.yaml"):
        foreign.read("nowhere.yaml")


def test_a_foreign_plan_is_read_and_not_run(tmp_path):
    file = tmp_path / "p.py"
    file.write_text("raise SystemExit\nPLAN = {'a.*.b': ColwiseParallel(input_layouts=Shard(1))}\n")
    (rule,) = foreign.read(f"{file}:PLAN").given.rules
    assert (rule.pattern, rule.line, rule.gathers) == ("a.*.b", 2, True)
