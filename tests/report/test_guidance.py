"""Section 11 says which framework to take by what `tpscope recommend` answered, and only by that."""

from dataclasses import replace

import pytest

from tpscope.errors import UserError
from tpscope.language.answer import Failure
from tpscope.language.proof import Cause, Diagnosis, ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.recommend.ask import layouts, wanted
from tpscope.recommend.result import Candidate, Recommendation, Standing
from tpscope.report import advice, guidance
from tpscope.report.advice import Advice, Tried
from tpscope.report.facts import Study
from tpscope.report.rows import Provenance
from tpscope.report.sections import guidance as section

MADE = Provenance("0123abc", "2026-01-02", {"cpus": 3})
READER = guidance.readers()[0]
LAYOUT = {"pp": 1, "dp_shard": 4, "tp": 2, "world": 8, "sequence_parallel": False}


def proof(scenario, verdict, **changes):
    return ProofAnswer("nemo@9.9.9", "m", scenario, 2, verdict, **changes)


def answer(asked=None, **changes):
    winner = Candidate(
        "nemo@9.9.9", LAYOUT, {}, Standing.RECOMMENDED, "equal in all 2 ways: plain, clip", ways=["plain", "clip"],
        cases=[proof("plain", Verdict.EQUAL), proof("clip", Verdict.EQUAL)], level="optimized", sharded_fraction=0.9,
    )  # fmt: skip
    wrong = Candidate("axolotl@9.9.9", LAYOUT, {}, reason="plain is different", ways=["plain", "clip"])
    scaled = Diagnosis(Cause.SCALED, "all", ["w"], "2", "twice", True)
    wrong.cases = [proof("plain", Verdict.DIFFERENT, diagnosis=[scaled])]
    model, world = (asked.input, asked.world) if asked else ("llama-3.1-8b", 8)
    return Recommendation(**{
        "model": model, "source": "here", "world": world, "asked": {"lora": {"r": 16}}, "candidates": [winner, wrong],
        "winner": "nemo@9.9.9", "config": "a: 1\n", "changes": ["a card with less memory"],
        "command": asked.command if asked else "tpscope recommend llama-3.1-8b --world 8 --lora", **changes,
    })  # fmt: skip


def row(**changes):
    return replace(advice.advice(READER.title, answer(), MADE), **changes)


def told(*rows):
    return "\n".join(section.guidance(Study([], advice=rows)))


def test_the_readers_are_those_of_the_brief_and_ask_what_can_be_laid_out():
    titles = [reader.title.split(" ")[0] for reader in guidance.readers()]
    assert titles == ["prototype", "production", "research", "beginner"]
    for reader in guidance.readers():
        assert len(reader.asks) >= 2
        for asked in reader.asks:
            assert layouts(wanted(asked), asked.world), asked.command


def test_a_case_that_is_no_question_is_named(tmp_path):
    file = tmp_path / "cases.toml"
    file.write_text('[[reader]]\ntitle = "a"\nafter = "b"\nask = [{ model = "llama-3.1-8b", word = 2 }]\n')
    with pytest.raises(guidance.BadCase, match=r"cases\.toml.*word"):
        guidance.readers(file)


def test_a_row_keeps_who_won_why_and_what_was_wrong_with_the_others():
    found = row()
    assert (found.winner, found.chosen.layout) == ("nemo@9.9.9", "tp=2, dp_shard=4")
    assert found.wishes == ["LoRA"]
    assert found.tried[1].verdict == "different"
    assert (found.tried[1].out_at, found.tried[1].causes) == ("plain", ["scaled"])
    assert advice.read_line(advice.line(found)) == found


def test_the_section_says_winner_reason_change_and_command():
    text = told(row())
    assert "nemo@9.9.9, tp=2, dp_shard=4" in text
    assert "equal in all 2 ways" in text
    assert "axolotl@9.9.9" in text
    assert "- a card with less memory" in text
    assert "`tpscope recommend llama-3.1-8b --world 8 --lora`" in text


def test_nothing_is_recommended_without_a_row_or_a_winner():
    assert "not measured yet (recommend)" in told()
    bad = row(winner=None, tried=[Tried("nemo@9.9.9", "tp=2", Standing.OUT, "plain is different")], mends=["sum them"])
    text = told(replace(bad, nearest="nemo@9.9.9: plain is different"))
    assert "**nothing is recommended**" in text
    assert "- sum them" in text
    assert "nothing is recommended" not in told(row())


def test_a_change_that_is_about_one_model_names_it():
    other = row(model="qwen3-8b", changes=["a card with less memory", "a newer version"])
    assert "- `qwen3-8b`: a newer version" in told(row(), other)
    assert "- a card with less memory" in told(row(), other)


def test_what_has_a_row_is_not_asked_again_and_what_nobody_asks_is_dropped(tmp_path):
    asked = []

    def ask(question):
        asked.append(question.command)
        return answer(question)

    first = guidance.record(tmp_path, say=str, ask=ask)
    assert len(asked) == len(first) == len(advice.read(tmp_path)) == sum(len(item.asks) for item in guidance.readers())
    advice.write(tmp_path, [*first[1:], row(command="tpscope recommend old --world 2")])
    assert len(guidance.missing(advice.read(tmp_path))) == 2
    guidance.record(tmp_path, say=str, ask=ask)
    assert asked[len(first) :] == [first[0].command]
    assert guidance.missing(advice.read(tmp_path)) == []


def test_a_killed_recording_keeps_what_it_has(tmp_path):
    def ask(question):
        if question.lora and question.input == "qwen3-8b":
            raise UserError("stopped")
        return answer(question)

    with pytest.raises(UserError):
        guidance.record(tmp_path, say=str, ask=ask)
    assert [item.model for item in advice.read(tmp_path)] == ["llama-3.1-8b"]


def test_an_answer_that_the_machine_had_no_time_for_is_not_recorded(tmp_path):
    said = []
    error = Failure("ProcessDied", "no answer within 300 s", "proof")

    def ask(question):
        found = answer(question)
        if question.input == "qwen3-8b":
            late = proof("clip", Verdict.CRASHED, error=error, sentence="no answer within 300 s")
            found.candidates[1].cases.append(late)
        return found

    guidance.record(tmp_path, say=said.append, ask=ask)
    assert "qwen3-8b" not in {item.model for item in advice.read(tmp_path)}
    assert "llama-3.1-8b" in {item.model for item in advice.read(tmp_path)}
    assert any(text.startswith("not recorded: nemo@9.9.9 clip ran into its time-out") for text in said)


def test_advice_is_only_taken_over_by_a_report_about_its_candidates():
    assert row().frameworks == {"nemo@9.9.9", "axolotl@9.9.9"}
    assert Advice("a", "b", MADE, "m", 2).chosen is None
