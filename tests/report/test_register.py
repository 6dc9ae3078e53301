"""The register: every statement has a verdict that the recorded rows give, and other rows give another."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tpscope.language.proof import Depth
from tpscope.language.verdict import Status, Verdict
from tpscope.report import prove_rows, register, study
from tpscope.report.experiments import store
from tpscope.report.experiments.complexity_rows import Complexity
from tpscope.report.facts import Study
from tpscope.report.prove_rows import Cell
from tpscope.report.register import Ruling
from tpscope.report.rows import WRITTEN, RunRow, SourceRow
from tpscope.report.runs import ADAPTERS, MESH, PLAIN, SEQUENCE
from tpscope.report.sections import register as section
from tpscope.report.text import not_yet

ROOT = Path(__file__).resolve().parents[2]
THEN, NOW = ("nemo@0.2.0", "axolotl@0.13.2"), ("nemo@0.7.0", "axolotl@0.19.0")
VERBS = ("compare", "prove", "price", "bench")


@pytest.fixture(scope="module")
def recorded():
    return study.recorded(ROOT)


@pytest.fixture
def rows(recorded):
    """The recorded rows, to be changed at will."""
    return copy.deepcopy(recorded)


def judged(rows, name, proofs=(), tried=()):
    statement = next(item for item in register.register().statement if item.id == name)
    return register.judge(statement, Study(rows, proofs, tried))


def columns(rows, *frameworks, kinds=(PLAIN,)):
    """Answers of some frameworks to some kinds of questions."""
    return [
        answer
        for row in rows
        if isinstance(row, RunRow) and row.question.kind in kinds
        for answer in row.answers
        if answer.id in frameworks
    ]


def cell(framework, verdict, scenario="lora", model="llama-3.1-8b", **more):
    return Cell(framework, model, "llama", scenario, 2, verdict, Depth.LOOP, "by hand", **more)


def test_all_28_are_there_in_order(recorded):
    found = register.judged(Study(recorded))
    assert [item.id for item in found] == [f"S{number}" for number in range(1, 29)]
    assert all(item.text and item.then and item.now and item.why for item in found)


def test_every_verdict_has_rows_and_either_lines_or_words_of_rows(recorded):
    for item in register.judged(Study(recorded, prove_rows.read(ROOT))):
        assert item.commands, item.id
        if item.verdict == Ruling.OPEN:
            assert any(not_yet(verb) in item.then + item.now for verb in VERBS), item
        else:
            assert item.evidence or any(letter.isdigit() for letter in item.now), item


def test_every_experiment_names_commands_that_rows_were_made_with(recorded):
    tried = store.read(ROOT)
    have = {row.command for row in recorded if isinstance(row, RunRow)} | {register.SOURCES}
    have |= {row.command for row in tried}
    found = register.judged(Study(recorded, (), tried))
    for statement, item in zip(register.register().statement, found, strict=True):
        assert set(item.commands) <= have
        for command in statement.experiment:
            if not command.startswith("tpscope prove"):
                rows, commands = register._of_experiment([command], Study(recorded, (), tried))
                assert commands, f"{statement.id}: no row of {command}"
                assert rows.runs or rows.sources or rows.experiments


def test_evidence_is_what_the_rows_quote(recorded):
    for item in register.judged(Study(recorded)):
        for one in item.evidence:
            assert one.framework in (*THEN, *NOW)
            assert one.line.path
            assert one.line.line > 0
            assert one.line.text


def test_no_row_no_verdict():
    for item in register.judged(Study([])):
        assert item.verdict == Ruling.OPEN, item
        assert "not measured yet (compare)" in item.then
        assert "not measured yet (compare)" in item.now


def test_newest_is_what_the_rows_hold_and_not_a_fixed_version(rows):
    for row in rows:
        if isinstance(row, RunRow):
            row.answers = [replace(answer, id=answer.id.replace("@0.7.0", "@0.8.0")) for answer in row.answers]
    assert register.versions(Study(rows), newest=True)["nemo"] == "nemo@0.8.0"
    assert register.versions(Study(rows), newest=False)["nemo"] == "nemo@0.2.0"


def test_s1_held_and_falls_with_the_outcome_of_one_level(rows):
    assert judged(rows, "S1").verdict == Ruling.THEN
    for column in columns(rows, *THEN):
        for item in column.selection.experiments:
            item["outcome"] = "base" if item["outcome"] == "hf" else item["outcome"]
    assert judged(rows, "S1").verdict == Ruling.NOT


def test_s1_holds_again_where_the_order_is_the_old_one(rows):
    for old, new in zip(columns(rows, "nemo@0.2.0"), columns(rows, "nemo@0.7.0"), strict=True):
        new.selection.order = old.selection.order
    assert judged(rows, "S1").verdict == Ruling.HOLDS


def test_s2_holds_where_no_combination_raises_or_skips(rows):
    assert judged(rows, "S2").verdict == Ruling.NOT
    for column in columns(rows, "nemo@0.2.0", "nemo@0.7.0"):
        for item in column.selection.experiments:
            free = "hf" if item["hf"] == "present" else "base"
            offered = {"custom": item["custom"] == "given", "optimized": item["registry"] == "present"}
            item["outcome"] = next((level for level, there in offered.items() if there), free)
    assert judged(rows, "S2").verdict == Ruling.HOLDS


def test_s6_counts_the_classes(rows):
    assert judged(rows, "S6").verdict == Ruling.NOT
    for row in rows:
        if isinstance(row, SourceRow):
            styles = [item for item in row.cited if item.what == "style"]
            row.cited = [item for item in row.cited if item not in styles[3:]]
    assert judged(rows, "S6").verdict == Ruling.HOLDS


def test_s9_holds_while_the_class_is_there(rows):
    assert judged(rows, "S9").verdict == Ruling.THEN
    rows = [row for row in rows if not (isinstance(row, SourceRow) and row.framework == "nemo@0.2.0")]
    assert judged(rows, "S9").verdict == Ruling.NOT


def test_s11_falls_with_the_name_of_an_axis(rows):
    assert judged(rows, "S11").verdict == Ruling.HOLDS
    for column in columns(rows, "nemo@0.7.0", kinds=(MESH,)):
        column.mesh.axes = {name.replace("dp_shard", "fsdp"): size for name, size in column.mesh.axes.items()}
    found = judged(rows, "S11")
    assert found.verdict == Ruling.THEN
    assert "fsdp" in found.now


def test_s12_differs_between_versions_and_held_if_the_axes_had_been_those(rows):
    found = judged(rows, "S12")
    assert found.verdict == Ruling.NOT
    assert found.then != found.now
    for column in columns(rows, "axolotl@0.13.2", kinds=(PLAIN, MESH)):
        column.mesh.axes = {name.replace("dp_replicate", "pp"): size for name, size in column.mesh.axes.items()}
    assert judged(rows, "S12").verdict == Ruling.THEN


def test_s14_tells_the_plan_from_the_run_and_holds_where_nothing_gathers(rows):
    found = judged(rows, "S14")
    assert found.verdict == Ruling.NOT
    assert "keeps the logits sharded for 6 of 9 models, and then the default loss" in found.now
    assert any("full_tensor" in one.line.text for one in found.evidence)
    for column in columns(rows, "nemo@0.2.0"):
        column.head = replace(column.head, gathered_by=None)
    assert judged(rows, "S14").verdict == Ruling.THEN
    for column in columns(rows, "nemo@0.7.0"):
        column.head = replace(column.head, gathered_by=None)
    assert judged(rows, "S14").verdict == Ruling.HOLDS


def test_s16_is_open_without_a_proof_and_follows_the_proofs(rows):
    assert judged(rows, "S16").verdict == Ruling.OPEN
    equal = [cell(key, Verdict.EQUAL) for key in ("nemo@0.2.0", "nemo@0.7.0")]
    found = judged(rows, "S16", equal)
    assert found.verdict == Ruling.HOLDS
    assert "tpscope prove llama-3.1-8b --tp 2 --scenarios lora --with nemo@0.7.0" in found.commands
    assert judged(rows, "S16", [equal[0], cell("nemo@0.7.0", Verdict.DIFFERENT)]).verdict == Ruling.THEN
    assert judged(rows, "S16", equal[:1]).verdict == Ruling.OPEN


def test_s16_does_not_blame_lora_for_what_plain_tensor_parallelism_does(rows):
    said = {"said": "RuntimeError: sizes"}
    proofs = [
        *(cell(key, Verdict.EQUAL) for key in ("nemo@0.2.0", "nemo@0.7.0")),
        cell("nemo@0.7.0", Verdict.CRASHED, model="olmo-2-7b", **said),
        cell("nemo@0.7.0", Verdict.CRASHED, "plain", "olmo-2-7b", **said),
    ]
    assert judged(rows, "S16", proofs).verdict == Ruling.HOLDS
    assert judged(rows, "S16", proofs[:-1]).verdict == Ruling.THEN


def test_s17_falls_with_plain_adapters_and_is_open_without_a_proof_else(rows):
    assert judged(rows, "S17").verdict == Ruling.NOT
    for column in columns(rows, "axolotl@0.13.2", "axolotl@0.19.0", kinds=(ADAPTERS,)):
        column.lora = replace(column.lora, note=None)
    assert judged(rows, "S17").verdict == Ruling.OPEN
    equal = [cell(key, Verdict.EQUAL) for key in ("axolotl@0.13.2", "axolotl@0.19.0")]
    assert judged(rows, "S17", equal).verdict == Ruling.HOLDS


def test_s18_falls_if_there_is_a_plan_without_the_attribute(rows):
    assert judged(rows, "S18").verdict == Ruling.HOLDS
    for column in columns(rows, "axolotl@0.19.0")[:1]:
        for item in column.selection.experiments:
            item["outcome"] = "hf"
    assert judged(rows, "S18").verdict == Ruling.THEN


def test_s20_holds_if_no_plan_of_nemo_is_hugging_faces(rows):
    assert judged(rows, "S20").verdict == Ruling.THEN
    for column in columns(rows, "nemo@0.7.0"):
        column.selection.level = "optimized" if column.selection.level == "hf" else column.selection.level
    assert judged(rows, "S20").verdict == Ruling.HOLDS


def test_s23_follows_the_lengths_in_the_rows(rows):
    found = judged(rows, "S23")
    assert found.verdict == Ruling.NOT
    assert "3 of 4 as said" in found.then
    source = next(row for row in rows if isinstance(row, SourceRow) and row.framework == "nemo@0.2.0")
    for file in source.files:
        file.lines = 1530 if file.path.endswith("distributed/parallelizer.py") else file.lines
    assert judged(rows, "S23").verdict == Ruling.THEN
    source.files.clear()
    assert judged(rows, "S23").then.startswith("open")


def test_s25_counts_the_models_that_get_to_a_step(rows):
    assert judged(rows, "S25").verdict == Ruling.NOT
    for column in columns(rows, *THEN, *NOW):
        column.status, column.loop_error, column.unobserved = Status.OK, None, ""
    assert judged(rows, "S25").verdict == Ruling.HOLDS


def test_s25_a_loop_that_stops_outside_torchs_range_is_no_evidence(rows):
    for column in columns(rows, "axolotl@0.13.2"):
        column.status = Status.OK
    assert judged(rows, "S25").then.startswith("open")
    for column in columns(rows, "axolotl@0.13.2"):
        column.outside_pin = []
    assert judged(rows, "S25").then.startswith("no")


@pytest.mark.parametrize("name", ["S19", "S26"])
def test_a_plan_that_axolotl_takes_from_a_file_decides(rows, name):
    tried = [row for row in store.read(ROOT) if isinstance(row, Complexity)]
    assert judged(rows, name, tried=tried).verdict == Ruling.NOT
    assert "base_model_tp_plan of config.json" in judged(rows, name, tried=tried).now
    for row in tried:
        row.ways = [way for way in row.ways if way.editing != "file"]
    assert judged(rows, name, tried=tried).verdict == Ruling.HOLDS


def test_s28_holds_where_every_layout_is_done_as_asked(rows):
    assert judged(rows, "S28").verdict == Ruling.NOT
    for column in columns(rows, *THEN, *NOW, kinds=(MESH, SEQUENCE)):
        column.status, column.error, column.ignored = Status.OK, None, []
    assert judged(rows, "S28").verdict == Ruling.HOLDS
    unequal = cell("nemo@0.7.0", Verdict.DIFFERENT, "fsdp")
    found = judged(rows, "S28", [unequal])
    assert found.verdict == Ruling.THEN
    assert "proofs of fsdp: 1 different" in found.now


def test_s13_falls_with_a_mesh_of_another_size_and_with_the_line_that_refuses(rows):
    found = judged(rows, "S13")
    assert found.verdict == Ruling.HOLDS
    assert "refused after it for dp_replicate=2, dp_shard=2, cp=2, tp=2" in found.now
    for column in columns(rows, "axolotl@0.13.2", kinds=(MESH,)):
        column.mesh.axes = dict.fromkeys(column.mesh.axes, 3)
    assert judged(rows, "S13").verdict == Ruling.NOT


def test_the_appendix_has_every_statement_once_in_its_table_and_once_below(recorded):
    lines = section.section(Study(recorded))
    for number in range(1, 29):
        assert sum(line.startswith(f"| S{number} |") for line in lines) == 1
        assert sum(line.startswith(f"**S{number}**") for line in lines) == 1
    assert any(line.startswith("| Q4 |") and not_yet("bench") in line for line in lines)


def test_a_plan_that_is_written_as_data_is_cited_with_its_line(recorded):
    study_ = Study(recorded)
    for key in (*THEN, *NOW):
        cited = {f"{item.where.path}:{item.where.line}": item.where.text for item in study_.cited(key, WRITTEN)}
        functions = {column.selection.function for column in study_.columns(key)}
        taken = {name for name in functions if re.fullmatch(r".+\.py:\d+", name)}
        assert set(cited) == taken
        assert all("_tp_plan" in text for text in cited.values())
