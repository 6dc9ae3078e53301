"""Pages on proofs say what the recorded rows say, and every difference of the sweep has its entry in the bug book."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_study import ROWS as COMPARED

from tpscope import bugs
from tpscope.bugs import Bug, Expected, Seen, explains, unexplained
from tpscope.language.answer import Failure, TrailLine
from tpscope.language.proof import Cause, Depth, Diagnosis, ParameterProof, ProofAnswer, Shallower
from tpscope.language.verdict import Verdict
from tpscope.models import catalog
from tpscope.models.read import read as read_model
from tpscope.report import bug_pages, pages, prove_pages, prove_rows, prove_speed, prove_sweep, study
from tpscope.report.prove_rows import Cell, Named, Proofs, Swept

ROOT = Path(__file__).resolve().parents[2]
BUG = Bug(
    "one-missing-sum", "One forgets a sum", "one", "It forgets it.", "https://github.com/a/one/issues/7", ">=1,<2",
    "2.0", "tpscope prove model-one --with one@1.0 --scenarios accumulate --tp 2", ("typed",), "accumulate",
    ("tp_size > 1",), (Expected("one@1.0", "different", "missing-sum"), Expected("one@2.0", "equal")),
    script="scripts/one.py",
)  # fmt: skip
SEEN = Seen("one@1.0", {"lib": "3.0"}, "typed", "accumulate", 2, "different", ("missing-sum",))
FOUND = Named(
    Cause.MISSING_SUM, ["norm.weight"], "nobody sums it", "each has its part", True, "one/plan.py:3", "sum it"
)


def cell(framework="one@1.0", model="model-one", scenario="plain", verdict=Verdict.EQUAL, **more):
    """A recorded cell, made by hand."""
    return Cell(framework, model, "typed", scenario, 2, verdict, Depth.LOOP, "a sentence", seconds=1.5, **more)


def different(**more):
    return cell(verdict=Verdict.DIFFERENT, named=[FOUND], worst=0.859, loss_error=0.0, **more)


ROWS = [
    Swept("one@1.0", "python -m sweep", "0123abc", "3 cores", "2026-01-02", 6.0, {"lib": "3.0"}, "<2"),
    cell(),
    different(scenario="accumulate", bugs=["one-missing-sum"]),
    cell(scenario="lora", verdict=Verdict.CRASHED, said="RuntimeError: shape 12", at="one/lora.py:7"),
    cell(model="model-two"),
    cell(model="model-two", scenario="accumulate", verdict=Verdict.UNSUPPORTED),
    cell(
        model="model-two", scenario="lora", verdict=Verdict.CRASHED, said="RuntimeError: shape 99", at="one/lora.py:7"
    ),
]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"framework": "one@2.1"}, False),
        ({"framework": "two@1.0"}, False),
        ({"model_type": "other"}, False),
        ({"scenario": "plain"}, False),
        ({"scenario": "lora+accumulate"}, True),
        ({"causes": ("scaled",)}, False),
        ({"causes": ("scaled", "missing-sum")}, True),
        ({"verdict": "crashed", "causes": ()}, False),
        ({"tp": 1}, False),
    ],
)
def test_an_entry_explains_its_versions_models_scenario_and_cause(change, expected):
    assert explains(BUG, replace(SEEN, **change)) is expected


def test_an_entry_of_a_library_explains_what_stands_on_it():
    bug = replace(BUG, framework="transformers", expected=(Expected("transformers@1.0", "different", "missing-sum"),))
    seen = replace(SEEN, packages={"transformers": "1.5"})
    assert explains(bug, replace(seen, framework="axolotl@9.0"))
    assert not explains(bug, replace(seen, framework="nemo@9.0"))
    assert not explains(replace(bug, families=("transformers",)), replace(seen, framework="axolotl@9.0"))
    assert not explains(bug, replace(seen, framework="axolotl@9.0", packages={"transformers": "2.0"}))


def test_an_entry_on_what_is_raised_asks_for_those_words():
    bug = replace(BUG, expected=(Expected("one@1.0", "crashed", said="got mixed"),))
    crashed = replace(SEEN, verdict="crashed", causes=())
    assert explains(bug, replace(crashed, said="RuntimeError: aten.x got mixed Tensor and DTensor"))
    assert not explains(bug, replace(crashed, said="KeyError: 1"))


def test_an_entry_on_a_size_of_the_model_asks_for_that_size():
    bug = replace(BUG, settings=("tp_size > num_key_value_heads",))
    assert not explains(bug, SEEN)
    assert not explains(bug, replace(SEEN, sizes={"num_key_value_heads": 8}))
    assert explains(bug, replace(SEEN, sizes={"num_key_value_heads": 1}))


def test_what_another_fault_says_first_explains_nothing():
    first = replace(BUG, expected=(Expected("one@1.0", "different", "missing-sum", first="another"), BUG.expected[1]))
    assert explains(BUG, SEEN)
    assert not explains(first, SEEN)


def test_what_no_proof_shows_or_only_a_variant_has_explains_no_proof():
    assert not explains(replace(BUG, command="torchrun x.py"), SEEN)
    variant = replace(BUG, expected=(Expected("one@1.0+hf", "different", "missing-sum"),))
    assert not explains(variant, SEEN)
    assert explains(variant, replace(SEEN, framework="one@1.0+hf"))


def test_every_cause_needs_an_entry():
    assert unexplained(SEEN, (BUG,)) == []
    assert unexplained(replace(SEEN, causes=("missing-sum", "scaled")), (BUG,)) == ["scaled"]
    assert unexplained(replace(SEEN, causes=()), (BUG,)) == ["no cause named"]


def test_rows_survive_the_file(tmp_path):
    rows = [ROWS[0], *(replace(row, bugs=[]) for row in ROWS[1:])]
    prove_rows.write(tmp_path, rows)
    assert prove_rows.read(tmp_path) == rows


def test_an_answer_is_cut_down_without_losing_what_the_pages_need():
    answer = ProofAnswer(
        "nemo@0.6.0", "qwen3-8b", "plain", 2, Verdict.DIFFERENT, Depth.ENTRY, sentence="no answer within 60 s; waits",
        parameters=[ParameterProof(f"model.layers.{one}.q_norm.weight", 0.1 + one, 1e-5, False) for one in (0, 1)],
        diagnosis=[Diagnosis(Cause.MISSING_SUM, "q_norm", ["model.layers.0.q_norm.weight"] * 2, "its part", "s" * 999,
                             True, [TrailLine("a.py", 3, "f", "x")], "sum it")],
        shallower=[Shallower(Depth.PLAN, Verdict.DIFFERENT, "")],
        error=Failure("ValueError", "in 140737488355328", "plan", TrailLine("b.py", 4, "g", "y")), seconds=2.0,
    )  # fmt: skip
    row = prove_rows.cell(answer, read_model("qwen3-8b")[0], {"text_config": {"num_key_value_heads": 4}})
    assert (row.model_type, row.sizes, row.causes) == ("qwen3", {"num_key_value_heads": 4}, ("missing-sum",))
    assert (row.worst, row.worst_of) == (1.1, "model.layers.*.q_norm.weight")
    assert (row.said, row.at) == ("ValueError: in <address>", "b.py:4")
    assert row.sentence == "no answer in time; waits"
    assert row.named[0].parameters == ["model.layers.*.q_norm.weight"]
    assert len(row.named[0].sentence) == prove_rows.LONGEST
    assert row.shallower == {"plan": "different"}


def test_the_matrix_has_a_table_a_framework_and_groups_what_is_different():
    text = "\n".join(prove_pages.part(Proofs(ROWS), (BUG,), []))
    assert "| one@1.0 | 2 | 1 | 2 | 0 | 1 | 0 | 6 |" in text
    assert "| model-one | = | **≠** missing-sum | crash |" in text
    assert "| model-two | = | - | crash |" in text
    assert (
        "| missing-sum | one@1.0 | model-one | accumulate | 0.859 | loop | one-missing-sum | the framework's: "
        "`bugs/scripts/one.py` shows it without tpscope |"
    ) in text
    assert "| one@1.0 | crashed | model-one, model-two | lora | RuntimeError: shape 12 (one/lora.py:7) | - |" in text
    assert "6 cases on warm ranks, each in the middle of a batch: median 1.5 s" in text


def test_a_difference_without_an_entry_is_not_settled():
    assert f"| none | {prove_pages.UNSETTLED} |" in "\n".join(prove_pages.part(Proofs(ROWS), (), []))
    assert Proofs(ROWS).unexplained() == ["one@1.0 model-one accumulate: missing-sum is in no entry of bugs/"]


def test_a_cause_without_a_repair_is_marked():
    row = different(scenario="accumulate")
    row.named = [replace(FOUND, repaired=False)]
    assert prove_pages.short(row) == "**≠** missing-sum, unconfirmed"
    assert prove_pages.differences(Proofs([row]), [row], ())[0][0] == "missing-sum, not confirmed by a repair"


def test_no_rows_give_no_part():
    assert prove_pages.part(Proofs([]), (BUG,), []) == []


def test_the_bug_page_says_what_the_sweep_saw():
    text = bug_pages.page((BUG,), Proofs(ROWS))
    assert "| [one-missing-sum](#one-missing-sum) | one | `>=1,<2` | 2.0 | [one/7]" in text
    assert "| one@1.0 | different, missing-sum | different, missing-sum |" in text
    assert f"| one@2.0 | equal | {bug_pages.NOT_SWEPT} |" in text
    assert "- one@1.0, different: model-one in accumulate" in text
    assert bug_pages.disagreements((BUG,), Proofs(ROWS)) == []


def test_an_expectation_that_the_sweep_contradicts_is_told():
    proofs = Proofs([ROWS[0], cell(scenario="accumulate")])
    (said,) = bug_pages.disagreements((BUG,), proofs)
    assert said.startswith(
        "bugs/one-missing-sum: one@1.0 is expected to be different, missing-sum, the sweep saw equal"
    )
    assert "**(not as expected)**" in bug_pages.page((BUG,), proofs)


def test_the_study_tells_verdicts_in_their_sections():
    text = study.page(COMPARED, ROWS)
    assert "Of 2 proofs of an adapted, sharded model: 2 crashed." in text
    assert "In 1 of the different ones the loss is exact" in text
    assert "| `model-one` | =; 1 of 3 |" in text
    assert "sequence parallelism still computes what the unsharded model does: not measured yet (prove)" in text


def test_a_sweep_that_was_killed_goes_on(tmp_path):
    path = tmp_path / "out" / "unfinished.jsonl"
    prove_sweep.Unfinished(path).add("key", ROWS[2])
    with path.open("a") as file:
        file.write('{"key": "half')
    again = prove_sweep.Unfinished(path)
    assert again.cells == {"key": ROWS[2]}
    again.forget()
    assert prove_sweep.Unfinished(path).cells == {}


def test_a_part_of_the_sweep_leaves_other_rows_as_they_are(tmp_path):
    prove_rows.write(tmp_path, ROWS)
    done = prove_sweep._Done("<2", [cell(verdict=Verdict.REFUSED)], {"lib": "3.1"})
    prove_sweep._record(tmp_path, done, "again")
    proofs = Proofs(prove_rows.read(tmp_path))
    assert len(proofs.cells) == len(ROWS) - 1
    assert proofs.cell("one@1.0", "model-one").verdict == Verdict.REFUSED
    assert proofs.cell("one@1.0", "model-one", "accumulate").verdict == Verdict.DIFFERENT
    assert proofs.swept["one@1.0"].packages == {"lib": "3.1"}


def test_a_framework_that_is_not_known_is_one_sentence(capsys):
    assert prove_sweep.main(["--only", "nothing"]) == 2
    assert "tpscope: --only nothing: known are nemo@0.2.0" in capsys.readouterr().err


@pytest.mark.frameworks
@pytest.mark.xdist_group("columns")
def test_a_slice_of_the_sweep_runs_and_is_resumed(tmp_path):
    asked = ["--only", "transformers@5.23.0", "--models", "llama-3.1-8b", "--scenarios", "plain,sequence-parallel"]
    assert prove_sweep.main(asked, tmp_path) == 0
    proofs = Proofs(prove_rows.read(tmp_path))
    assert proofs.cell("transformers@5.23.0", "llama-3.1-8b").verdict == Verdict.EQUAL
    assert proofs.cell("transformers@5.23.0", "llama-3.1-8b", "sequence-parallel").verdict == Verdict.UNSUPPORTED
    assert proofs.swept["transformers@5.23.0"].packages["transformers"] == "5.23.0"
    assert not (tmp_path / prove_sweep.UNFINISHED).exists()
    before = (tmp_path / prove_rows.PROOFS).read_text()
    assert prove_sweep.main(asked, tmp_path) == 0
    assert (tmp_path / prove_rows.PROOFS).read_text() == before


RECORDED = Proofs(prove_rows.read(ROOT))
WHOLE = set(prove_sweep.FRAMEWORKS) <= set(RECORDED.frameworks)


@pytest.mark.skipif(not RECORDED.cells, reason="no proofs have been recorded in this checkout")
class TestCommitted:
    def test_the_pages_are_current_and_every_difference_is_in_the_bug_book(self):
        assert pages.problems(ROOT) == []

    @pytest.mark.skipif(not WHOLE, reason="only a part of the sweep has been recorded in this checkout")
    def test_every_cell_has_a_verdict(self):
        have = {(row.framework, row.model, row.scenario) for row in RECORDED.cells}
        assert have >= {
            (framework, model, way)
            for framework in prove_sweep.FRAMEWORKS
            for model in catalog.names()
            for way in prove_sweep.SCENARIOS
        }

    def test_the_bug_book_expects_what_the_sweep_saw(self):
        assert bug_pages.disagreements(bugs.load(), RECORDED) == []

    @pytest.mark.skipif(not prove_speed.read(ROOT), reason="no timings have been recorded in this checkout")
    def test_proofs_are_as_fast_as_promised(self):
        assert [row.what for row in prove_speed.read(ROOT) if row.seconds > row.limit] == []

    def test_rows_are_compact(self):
        lines = (ROOT / prove_rows.PROOFS).read_text(encoding="utf-8").splitlines()
        assert max(len(json.dumps(json.loads(text))) for text in lines) < 12_000
