"""Every rule of the guide has a broken plan that a recorded proof catches; what is not recorded is said so."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tpscope.language.answer import PlanRow
from tpscope.language.verdict import Verdict
from tpscope.prove.faults import CARRIER, FAULTS
from tpscope.prove.selftest import Control, MutationRow, SelfTest
from tpscope.report import guide, guide_pages, guide_plans, guide_record, guide_rows, pages
from tpscope.report.guide_rows import Evidence, Planned
from tpscope.report.prove_rows import Cell
from tpscope.report.rows import Provenance

ROOT = Path(__file__).resolve().parents[2]
RULES = guide.load()
RECORDED = guide_rows.read(ROOT)
MADE = Provenance("0123abc", "2026-01-02", {"cpus": 3})


def mutation(kind, model, found=True):
    fault = guide.fault(kind)
    said = "3 of 21 parameters differ, by up to 0.5; the loss is exact" if found else "21 parameters are equal"
    causes, place = ([fault.cause] if found else []), "model.layers.0.self_attn.o_proj"
    return MutationRow(
        model, kind, fault.does, found, found, CARRIER, fault.scenario, fault.cause, causes, [place], [place], said, 1.0
    )


def selftest(*missed):
    """A self-test in which every fault was found in the model of its rule, but for those that are named."""
    rows = [mutation(kind, rule.model, kind not in missed) for rule in RULES.rule for kind in rule.faults]
    controls = [
        Control(row.model, Verdict.EQUAL, CARRIER, row.scenario, "21 parameters are those of the unsharded model", 1.0)
        for row in rows
    ]
    return SelfTest(rows, controls, full=True, packages={"torch": "2.13.0"})


def evidence(**changes):
    return replace(RECORDED, **{"selftest": selftest(), **changes})


def test_every_fault_of_the_self_test_breaks_a_rule_or_is_listed_as_none():
    assert guide.uncovered(RULES) == []
    assert {kind for rule in RULES.rule for kind in rule.faults} <= {fault.kind for fault in FAULTS}


def test_a_fault_that_no_rule_has_and_a_bug_that_is_not_there_are_named():
    less = replace(RULES, rule=[rule for rule in RULES.rule if rule.id != "bias-once"])
    assert guide.uncovered(less) == ["guide.toml: bias-repeated: no rule has this fault of the self-test"]
    (rule,) = [rule for rule in RULES.rule if rule.id == "heads-divide"]
    bad = replace(rule, released=[replace(rule.released[0], bug="no-such-bug")], faults=["no-such-fault"])
    said = guide.uncovered(replace(RULES, rule=[*RULES.rule, bad]))
    assert any("no-such-bug is not in bugs/" in text for text in said)
    assert any("no-such-fault: is no fault" in text for text in said)
    assert any("names no model" in text for text in said)
    assert guide.uncovered(replace(RULES, rule=[*RULES.rule, replace(rule, released=[])]))


def test_a_word_misspelt_in_the_rules_is_an_error(tmp_path):
    file = tmp_path / "guide.toml"
    file.write_text(guide.RULES.read_text().replace("shows =", "show =", 1))
    with pytest.raises(guide.BadRule, match=r"guide\.toml"):
        guide.load(file)


@pytest.mark.parametrize("rule", RULES.rule, ids=lambda rule: rule.id)
def test_a_rule_has_a_broken_plan_with_a_recorded_catch(rule):
    for item in rule.released:
        caught = RECORDED.caught(item)
        assert caught is not None, f"{item.framework} {item.model} {item.scenario} is not recorded as caught"
        assert item.bug in caught.bugs
    if RECORDED.selftest is None and not rule.released:
        pytest.skip("results/selftest.json is not recorded yet, and the page says so")
    assert RECORDED.catches(rule)


def test_what_is_recorded_is_all_that_the_guide_needs():
    assert guide_rows.lacking(RULES, RECORDED) == []
    assert guide_rows.lacking(RULES, evidence()) == []
    assert all(RECORDED.plan(wanted) for wanted in guide.plans(RULES))


def test_a_row_that_is_removed_breaks_the_check():
    rows = selftest().mutations
    less = evidence(selftest=replace(selftest(), mutations=[row for row in rows if row.kind != "untied"]))
    assert any("has no catch of untied" in text for text in guide_rows.lacking(RULES, less))
    lost = evidence(swept=[row for row in RECORDED.swept if getattr(row, "model", "") != "glm-4-9b"])
    said = guide_rows.lacking(RULES, lost)
    assert any("packed-slices: no recorded proof catches nemo@0.7.0" in text for text in said)
    assert any("packed-slices: no recorded proof has transformers@5.23.0 right" in text for text in said)


def test_a_version_that_is_equal_after_all_breaks_no_rule():
    same = [
        replace(row, verdict=Verdict.EQUAL) if isinstance(row, Cell) and row.framework == "nemo@0.6.0" else row
        for row in RECORDED.swept
    ]
    assert any("catches nemo@0.6.0" in text for text in guide_rows.lacking(RULES, evidence(swept=same)))


def test_a_catch_of_something_else_is_no_catch_of_this_rule():
    other = [replace(row, bugs=["another"]) if isinstance(row, Cell) else row for row in RECORDED.swept]
    assert any("catches nemo@0.6.0" in text for text in guide_rows.lacking(RULES, evidence(swept=other)))


def test_a_fault_that_was_missed_is_said_to_be_missed():
    missed = evidence(selftest=selftest("forward-sum-dropped"))
    assert "forward-sum-dropped was missed" in guide_rows.lacking(RULES, missed)
    assert "forward-sum-dropped  NOT FOUND" in guide_pages.page(RULES, missed)
    assert "NOT FOUND" not in guide_pages.page(RULES, evidence())


def test_the_page_has_each_rule_with_what_keeps_breaks_and_catches_it():
    text = guide_pages.page(RULES, evidence())
    for rule in RULES.rule:
        assert f". {rule.name}\n\n**{rule.title}**" in text
        assert all(f"[{item.bug}](bugs.md#{item.bug})" in text for item in rule.released)
    assert text.count("**Caught**") == sum(bool(rule.faults) + len(rule.released) for rule in RULES.rule)
    assert guide_pages.NOT_RECORDED not in text
    assert not re.search(r"\| +\|", text), "a cell is empty"


def test_what_nobody_has_recorded_is_said_to_be_missing():
    text = guide_pages.page(RULES, Evidence([]))
    assert f"The self-test is {guide_pages.NOT_RECORDED}: `{guide_pages.SELF_TEST}`" in text
    assert "No proof is recorded yet of: column-then-row" in text
    assert "EQUAL" not in text
    assert guide_rows.lacking(RULES, Evidence([]))


def test_how_many_losses_are_exact_is_counted():
    text = guide_pages.page(RULES, evidence())
    count = len(selftest().mutations)
    assert f"| faults of the self-test, in `results/selftest.json` | {count} | {count} |" in text
    other = guide_pages.page(RULES, evidence(selftest=selftest("untied")))
    assert f"in `results/selftest.json` | {count - 1} | {count - 1} |" in other


def plan(framework, *rules):
    rows = [PlanRow(name, "x", kind, True, {}, None, None, list(does), [], "none", 2) for name, kind, *does in rules]
    return Planned(framework, "m", 2, False, "tpscope compare m", MADE, "base", rows)


RIGHT = plan("a@2", ("l.*.o_proj", "rowwise", "all_reduce"), ("l.*.q_proj", "colwise"), ("l.*.norm", "replicate"))


def test_two_plans_are_told_apart_where_they_differ_and_only_there():
    wrong = plan("a@1", ("l.*.o_proj", "rowwise"), ("l.*.q_proj", "colwise"))
    words, found = guide_plans.beside(RIGHT, wrong, ["*"])
    assert words == "`-` is a@2, `+` is a@1."
    assert [line[0] for line in found] == ["-", "+", " ", "-"]
    words, found = guide_plans.beside(RIGHT, replace(RIGHT, framework="a@1"), ["*_proj"])
    assert "say the same" in words
    assert [line[0] for line in found] == [" ", " "]


def test_a_fault_takes_the_place_of_the_rule_that_it_breaks():
    kept = guide_plans.rows(RIGHT, ["*"])
    found = guide_plans.broken(kept, ["l.0.o_proj.weight"], "is dropped")
    assert [line[0] for line in found] == ["-", "+", " ", " "]
    assert "+ l.0.o_proj.weight: is dropped" in found
    assert guide_plans.broken(kept, ["dropout"], "is alike")[-1] == "+ dropout: is alike"
    assert guide_plans.broken(kept, [], "all are scaled")[-1] == "+ the whole model: all are scaled"


def test_a_rule_of_a_plan_that_matched_nothing_is_not_shown():
    unmatched = replace(RIGHT, plan=[replace(row, matched=0) for row in RIGHT.plan])
    assert guide_plans.rows(unmatched, ["*"]) == []
    assert len(guide_plans.rows(RIGHT, ["*_proj"])) == 2


def test_rows_are_read_back_as_they_were_written(tmp_path):
    guide_rows.write(tmp_path, [RIGHT, Cell("a@1", "m", "llama", "plain", 2, Verdict.EQUAL, "loop", "equal")])
    assert [row.row for row in guide_rows.read_rows(tmp_path)] == ["planned", "cell"]
    assert guide_rows.read_rows(tmp_path)[0] == RIGHT


def test_a_selftest_that_is_none_is_named(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / guide_rows.SELFTEST).write_text('{"mutations": 3}')
    with pytest.raises(guide_rows.BadSelfTest, match=r"selftest\.json"):
        guide_rows.read(tmp_path)


def test_the_page_on_disk_is_current_and_an_edit_is_seen(tmp_path):
    shutil.copytree(ROOT / "results", tmp_path / "results")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    assert [text for text in pages.problems(tmp_path) if "guide" in text] == []
    lines = (tmp_path / guide_rows.ROWS).read_text().splitlines()
    (tmp_path / guide_rows.ROWS).write_text("\n".join(lines[1:]) + "\n")
    assert any(text.startswith("docs/guide.md: differs") for text in pages.problems(tmp_path))


@pytest.mark.frameworks
@pytest.mark.xdist_group("columns")
def test_the_recorded_plan_is_the_one_that_the_framework_selects():
    from tpscope.compare.run import Pool

    wanted = next(item for item in guide.plans(RULES) if item.framework == CARRIER)
    with Pool(lambda kind, text: None, False) as pool:
        again = guide_record.planned(wanted, pool, MADE)
    recorded = RECORDED.plan(wanted)
    assert recorded is not None
    assert (again.plan, again.command, again.level) == (recorded.plan, recorded.command, recorded.level)
