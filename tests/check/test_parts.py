"""The parts of a check that need no framework."""

import pytest

from tpscope import bugs
from tpscope.check import known, layout, proofs
from tpscope.check.implied import implied
from tpscope.check.lines import lines_of
from tpscope.check.result import Check, Finding, Runs, Severity
from tpscope.language.layout import Layout
from tpscope.language.proof import ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.models.read import read
from tpscope.models.spec import Intent
from tpscope.render import check as page

AXOLOTL = """base_model: meta-llama/Llama-3.1-8B
tensor_parallel_size: 2
datasets:
  - path: ./d
    type: alpaca
gradient_accumulation_steps: 4
"""


@pytest.fixture
def file(tmp_path):
    def written(text):
        path = tmp_path / "my.yml"
        path.write_text(text)
        return path

    return written


def test_lines_are_those_of_the_keys(file):
    lines = lines_of(file(AXOLOTL), "my.yml")
    assert lines.where("tensor_parallel_size") == "my.yml:2"
    assert lines.where("datasets.0.type") == "my.yml:5"
    assert lines.where("datasets.0.nothing") == "my.yml:4"
    assert lines.where("nothing") == "my.yml"


def test_the_last_of_two_equal_keys_counts(file):
    assert lines_of(file(AXOLOTL + "tensor_parallel_size: 4\n"), "x").where("tensor_parallel_size") == "x:7"


def test_a_message_is_placed_at_the_key_that_it_names(file):
    lines = lines_of(file(AXOLOTL), "my.yml")
    assert lines.named("`tensor_parallel_size` is wrong") == "tensor_parallel_size"
    assert lines.named("nothing of the kind") == ""


def test_keys_that_hold_anchors_are_known(file):
    assert lines_of(file("x: &x\n  a: 1\ny:\n  <<: *x\n"), "f").anchors == {"x"}


@pytest.mark.parametrize(
    ("text", "world", "problem", "remedy"),
    [
        (AXOLOTL, 8, False, ""),
        (AXOLOTL, 3, True, "write tensor_parallel_size: 1"),
        (AXOLOTL.replace("size: 2", "size: 3"), 8, True, "write tensor_parallel_size: 1, 2, 4 or 8"),
        (AXOLOTL + "dp_shard_size: 3\n", 8, True, "write dp_shard_size: 4"),
        (AXOLOTL + "context_parallel_size: 3\n", 8, True, "write context_parallel_size: 1, 2 or 4"),
    ],
)
def test_a_layout_against_a_world(file, text, world, problem, remedy):
    spec, intent = read(str(file(text)))
    fitted = layout.fit(intent, spec, world, None)
    assert bool(fitted.problem) is problem
    assert fitted.remedy == remedy


def test_heads_that_tp_does_not_divide(file):
    spec, _ = read(str(file(AXOLOTL)))
    assert layout.head_problem(spec, 3) == "tp 3 does not divide the 32 attention heads of llama-3.1-8b"
    assert layout.head_problem(spec, 16) == "tp 16 does not divide the 8 key-value heads of llama-3.1-8b"
    assert layout.head_problem(spec, 4) == ""


def test_scenarios_follow_from_the_keys(file):
    spec, intent = read(str(file(AXOLOTL)))
    assert implied(intent, spec, Layout(tp=2)) == {
        "accumulate": "gradient_accumulation_steps", "clip": "max_grad_norm"
    }  # fmt: skip
    assert set(implied(intent, spec, Layout(tp=2, dp_shard=4, cp=2, sequence_parallel=True))) == {
        "accumulate", "clip", "cp", "fsdp", "sequence-parallel"
    }  # fmt: skip


def test_a_nemo_recipe_clips_unless_it_is_told_not_to(file):
    spec, _ = read(str(file(AXOLOTL)))

    def ways(settings):
        return implied(Intent("nemo", settings=settings), spec, Layout(tp=2))

    assert ways({}) == {"clip": "clip_grad_norm.max_norm"}
    assert ways({"clip_grad_norm.max_norm": 0.5}) == {"clip": "clip_grad_norm.max_norm"}
    assert ways({"clip_grad_norm.max_norm": 0.0}) == {}


def test_cases_are_plain_each_alone_and_all_together(file):
    _, intent = read(str(file(AXOLOTL)))
    found, notes = proofs.cases(["accumulate", "clip"], Layout(tp=2), intent)
    assert [(scenario.name, tp) for scenario, tp in found] == [
        ("plain", 2), ("accumulate", 2), ("clip", 2), ("accumulate+clip", 2)
    ]  # fmt: skip
    assert notes == []


def test_a_large_tp_is_proved_smaller_and_said_so(file):
    _, intent = read(str(file(AXOLOTL)))
    found, notes = proofs.cases([], Layout(tp=8), intent)
    assert [tp for _, tp in found] == [2]
    assert "tp=8" in notes[0]


def test_nothing_is_proved_without_tp(file):
    _, intent = read(str(file(AXOLOTL)))
    assert proofs.cases(["clip"], Layout(dp_shard=8), intent) == ([], [])


def test_the_bug_book_is_whole():
    book = bugs.load()
    assert len({bug.id for bug in book}) == len(book)
    for bug in book:
        assert bug.title
        assert bug.expected, bug.id
        assert {item.first for item in bug.expected} <= {"", *(other.id for other in book if other is not bug)}, bug.id
        assert all(known._CONDITION.fullmatch(setting) for setting in bug.settings), bug.id


def test_an_entry_is_found_by_version_model_and_setting(file):
    spec, intent = read(str(file(AXOLOTL.replace("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-8B"))))
    assert intent.kind == "axolotl"
    data = {"tensor_parallel_size": 2, "gradient_accumulation_steps": 4}
    asked = {"accumulate": "gradient_accumulation_steps"}
    old = known.matching({"transformers": "4.57.6"}, "axolotl", "0.13.2", spec, Layout(tp=2), asked, data)
    assert "transformers-qk-norm-gradients" in [bug.id for bug in old]
    new = known.matching({"transformers": "5.23.0"}, "axolotl", "0.19.0", spec, Layout(tp=2), asked, data)
    assert "transformers-qk-norm-gradients" not in [bug.id for bug in new]
    assert known.matching({"transformers": "4.57.6"}, "axolotl", "0.13.2", spec, Layout(), asked, data) == []


@pytest.mark.parametrize(
    ("setting", "holds"),
    [
        ("tp_size > 1", True), ("tp_size = 4", False), ("adapter: lora", True), ("adapter: qlora", False),
        ("tp_size > heads", True), ("absent", False), ("max_grad_norm", True), ("not a condition at all!", False),
    ],
)  # fmt: skip
def test_conditions_of_the_bug_book(setting, holds):
    values = {"tp_size": 2, "adapter": "lora", "heads": 1}
    assert known._holds(setting, values, "max_grad_norm") is holds


def example(**changes):
    finding = Finding(
        Severity.ERROR, "it would train another model", "my.yml:2", "a reason", "do this", [], "k", "prove"
    )
    return Check(**{
        "config": "my.yml", "framework": "nemo@0.6.0", "model": "qwen3-8b", "world": 2, "layout": {"tp": 2, "world": 2},
        "runs": Runs.YES, "verdict": Verdict.DIFFERENT, "findings": [finding], "command": "tpscope check my.yml",
        "cases": [ProofAnswer("nemo@0.6.0", "qwen3-8b", "plain", 2, Verdict.DIFFERENT, loss_error=0.0)], **changes,
    })  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_page_fits_and_leads_with_the_verdict(width):
    from rich.console import Console

    console = Console(width=width, record=True, file=None, quiet=False, color_system=None)
    with console.capture() as caught:
        page.show(example(), console)
    lines = caught.get().splitlines()
    assert lines[0].startswith("WOULD RUN  DIFFERENT")
    assert max(map(len, lines)) <= min(width, page.WIDEST)
    assert any("my.yml:2" in line for line in lines)
    assert any("do this" in line for line in lines)


def test_bad_news_is_an_error_a_warning_or_a_bad_verdict():
    assert example().bad
    assert example(findings=[]).bad
    assert not example(findings=[], verdict=Verdict.EQUAL).bad
    assert not example(findings=[], verdict=None).bad
