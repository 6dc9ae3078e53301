"""Terms, criteria and pipeline stages are computed: what is wrong in the text or the rows is seen in the result."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_study import MADE, ROWS, WHERE, column, run

from tpscope.language.answer import Failure, Head, TrailLine
from tpscope.report import study
from tpscope.report.experiments import store
from tpscope.report.experiments.pipeline_rows import Pipeline, Placed, Schedule, Stage
from tpscope.report.facts import Study
from tpscope.report.prove_rows import read as proofs
from tpscope.report.sections import glossary, pipeline, quality
from tpscope.report.sections.terms import TERMS

ROOT = Path(__file__).resolve().parents[2]


def reading(lines=(), title="11. Summary and recommendations"):
    """The made-up study, read, with some lines more in one section."""
    made = Study(ROWS)
    for name, section in study.chapters(made):
        if name != quality.TITLE:
            made.written[name] = section(made)
    made.written[title] = [*made.written[title], *lines]
    return quality.Reading(made)


def holds(result):
    return result.good == result.of and result.of > 0


def test_a_quoted_line_that_no_row_has_is_not_exact():
    assert holds(quality.exact(reading()))
    changed = quality.exact(reading(["- `pkg/plans.py:41` in `choose`: `if cls in PARALLELIZE_FUNCTION:`"]))
    assert not holds(changed)
    assert changed.wrong == ("`pkg/plans.py:41`",)


def test_a_reference_that_no_row_has_is_named():
    assert holds(quality.referenced(reading()))
    assert quality.referenced(reading(["See `pkg/plans.py:42`."])).wrong == ("`pkg/plans.py:42`",)


def test_an_empty_cell_and_a_table_without_a_sentence_are_seen():
    assert holds(quality.clear(reading()))
    rows = ["| a | b |", "|---|---|", "| 1 |  |"]
    assert not holds(quality.clear(reading(["How it was obtained.", "", *rows])))
    assert not holds(quality.clear(reading(["no sentence", "", "| a | b |", "|---|---|", "| 1 | 2 |"])))


def test_a_link_that_leads_nowhere_is_named():
    assert holds(quality.navigable(reading()))
    assert quality.navigable(reading(["[there](#nowhere)"])).wrong == ("#nowhere",)


def test_guidance_without_evidence_is_named():
    assert holds(quality.following(reading()))
    assert not holds(quality.following(reading(["### Guidance", "", "- Trust your feelings."])))


def test_a_file_without_a_digest_is_not_accurate():
    unread = replace(ROWS[0], answers=[column("three@3.0")])
    assert (
        holds(quality.accurate(quality.Reading(Study([row for row in ROWS if row.row == "source"] + ROWS[:1]))))
        is False
    )
    gone = quality.accurate(quality.Reading(Study([unread])))
    assert gone.good == 0


def test_every_dimension_needs_a_table():
    missing = Study(ROWS)
    missing.written["8. LoRA compatibility"] = ["no table"]
    assert any(name.startswith("LoRA") for name in quality.covered(quality.Reading(missing)).wrong)
    assert "LoRA" not in quality.covered(reading()).wrong


def test_what_waits_for_a_verb_is_not_complete():
    result = quality.complete(reading())
    assert "left to `price`" in result.wrong
    assert str(result).startswith("**holds in part**")


def test_a_word_that_nobody_explains_is_named():
    assert glossary.undefined({"1. One": ["ZeRO cuts optimizer states."]}) == ["ZeRO"]
    assert glossary.undefined({"1. One": ["The zero of a DTensor."]}) == []
    assert quality.explained(reading(["ZeRO"])).wrong == ("ZeRO",)


def test_a_term_links_to_the_first_section_that_has_it():
    made = Study(ROWS)
    made.written = {"1. One": ["nothing"], "2. Two": ["a `reduce_scatter`"], "3. Three": ["reduce-scatter"]}
    text = "\n".join(glossary.section(made))
    assert "| reduce-scatter |" in text
    assert "[2. Two](#2-two)" in text
    assert "| all-to-all |" not in text


def test_the_appendices_on_the_text_can_be_asked_for_alone():
    assert "| plan |" in study.part(ROWS, (), glossary.TITLE)
    assert "**holds**" in study.part(ROWS, (), quality.TITLE)


def stage(index, placement="Shard(dim=0)"):
    group = Placed("model.layers.*.q_proj.weight", 2, 72, placement)
    return Stage(
        index, index, index == 0, index == 1, [f"model.layers.{index} to {index}"], [group], 144, "Schedule1F1B"
    )


def cut(**more):
    return Pipeline(framework="one@1.0", command="python -m x --with one@1.0", made=MADE, model="model-one", **more)


def section(*rows, answers=None):
    return "\n".join(pipeline.section(Study([run(answers=answers)], (), rows)))


def test_stages_and_their_share_are_those_of_the_row():
    text = section(cut(stages=[stage(0), stage(1)]))
    assert "| one@1.0 | `model-one` | 0 (first) | 0 | `model.layers.0 to 0` | 50.0% | `Schedule1F1B` |" in text
    assert "| 2 Shard(0) | nothing | 1 of 1 |" in text


def test_a_stage_that_is_sharded_otherwise_is_named():
    text = section(cut(stages=[stage(0, "Replicate()")]))
    assert "0 of 1; not `model.layers.*.q_proj.weight` Replicate, else Shard(0)" in text


def test_a_tied_model_that_is_refused_says_so_in_the_splitters_words():
    tied = column("one@1.0")
    tied.head = Head(tied=True)
    refused = cut(error=Failure("ValueError", "no ties", "split", WHERE))
    assert "| one@1.0 | `model-one` | ValueError: no ties | `pkg/plans.py:41` |" in section(refused, answers=[tied])
    assert "no ties" not in section(refused)


def test_names_of_schedules_that_are_listed_and_not_taken_are_counted():
    line = TrailLine("pkg/config.py", 5, "", '"a", "b"')
    listed = [
        Schedule("a", line, "ScheduleA", [0]),
        Schedule("b", line, error=Failure("ValueError", "Unknown", "schedule")),
    ]
    text = section(cut(schedules=listed))
    assert "Of the 2 names that one@1.0 lists as supported, 1 are not taken: `b`." in text
    assert "are not taken" not in section(cut(schedules=listed[:1]))


def test_without_rows_the_verb_is_named():
    assert "ot measured yet (experiments: pipeline)" in section()


@pytest.fixture(scope="module")
def made():
    found = Study(study.recorded(ROOT), proofs(ROOT), store.read(ROOT))
    for name, chapter in study.chapters(found):
        found.written[name] = chapter(found)
    return found


@pytest.mark.skipif(not (ROOT / study.ROWS).is_file(), reason="the study has not been recorded in this checkout")
class TestCommitted:
    def test_every_entry_of_the_glossary_occurs_in_the_study_and_every_word_of_the_field_is_explained(self, made):
        before = {title: lines for title, lines in made.written.items() if title != glossary.TITLE}
        text = "\n".join(line for lines in before.values() for line in lines)
        meanings = "\n".join(term.meaning for term in TERMS)
        entries = [line.split(" | ")[0][2:] for line in made.written[glossary.TITLE] if line.startswith("| ")][1:]
        assert len(entries) > 50
        for term in (term for term in TERMS if term.name in entries):
            assert term.occurs(text) or term.occurs(meanings), term.name
        assert glossary.undefined(before) == []

    def test_all_criteria_but_completeness_hold(self, made):
        text = "\n".join(made.written[quality.TITLE])
        assert text.count("**holds**") >= 9
        assert "does not hold" not in text

    def test_the_recorded_layers_and_stages_are_there(self, made):
        assert "One decoder layer as it ran" in "\n".join(made.written["2. Core architecture"])
        assert "0 (first)" in "\n".join(made.written[pipeline.TITLE])
