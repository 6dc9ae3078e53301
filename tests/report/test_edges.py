"""An edge case is judged from what was compared and proved; what ends badly is never counted as well treated."""

from pathlib import Path

import pytest

from tpscope.compare.run import Pool
from tpscope.errors import UserError
from tpscope.frameworks import registry
from tpscope.language.answer import Failure, FrameworkAnswer, LogLine, TrailLine
from tpscope.language.proof import Cause, Depth
from tpscope.language.verdict import Status, Verdict
from tpscope.report import study
from tpscope.report.experiments import edges, store
from tpscope.report.experiments.asking import Asker
from tpscope.report.experiments.edge_rows import BAD, Edge, Edges, Treated, because, treated
from tpscope.report.facts import Study
from tpscope.report.judges import edges as judge
from tpscope.report.judges.view import View
from tpscope.report.prove_rows import Cell, Named
from tpscope.report.rows import Provenance, SourceRow
from tpscope.report.sections import edges as section
from tpscope.report.text import not_yet

ROOT = Path(__file__).resolve().parents[2]
LINE = TrailLine("pkg/plan.py", 7, "check", "raise ValueError(")
SAID = Failure("ValueError", "heads do not divide", "apply", LINE)


def made(verdict=Verdict.EQUAL, status=Status.OK, fraction=1.0, framework="axolotl@0.19.0", edge="odd heads", **more):
    """A row made by hand: nothing of it was run."""
    cell = Cell(framework, edge, "llama", "plain", 2, verdict, Depth.LOOP, "said by hand")
    return Edge(
        framework=framework, command="by hand", made=Provenance("0", "2026-01-02", {}), edge=edge, says="made up",
        model="llama-3.1-8b", tp=2, status=status, level="hf", sharded_fraction=fraction, proof=cell, **more,
    )  # fmt: skip


def test_every_case_is_a_model_that_has_what_the_case_is_about():
    specs = {case.name: case.spec() for case in edges.cases()}
    assert specs["odd vocabulary"].config["vocab_size"] % 2
    assert specs["odd feed-forward width"].config["intermediate_size"] % 2
    assert specs["odd heads"].config["num_attention_heads"] % 2
    assert specs["tied embeddings"].config["tie_word_embeddings"]
    assert specs["remote code"].remote_code
    four = next(case for case in edges.cases() if case.tp == 4)
    assert specs[four.name].config["num_key_value_heads"] < four.tp


def test_no_framework_brings_a_plan_for_the_model_that_has_none():
    sources = [row for row in study.recorded(ROOT) if isinstance(row, SourceRow)]
    plain = next(case for case in edges.cases() if case.name == "no plan").spec()
    assert sources
    assert not [row.framework for row in sources if plain.model_type in row.plans_of_configs]
    assert all("llama" in row.plans_of_configs for row in sources)


def test_a_change_of_what_the_config_has_not_is_refused():
    with pytest.raises(UserError, match="has no vocab_sise to set"):
        edges.Case(name="a", says="b", model="llama-3.1-8b", change={"vocab_sise": 3}).spec()


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (made(), Treated.EQUAL),
        (made(Verdict.DIFFERENT), Treated.DIFFERENT),
        (made(Verdict.CRASHED), Treated.CRASHED),
        (made(Verdict.REFUSED), Treated.REFUSED),
        (made(Verdict.CRASHED, Status.REFUSED, 0.0), Treated.REFUSED),
        (made(Verdict.EQUAL, Status.CRASHED), Treated.CRASHED),
        (made(Verdict.UNSUPPORTED, fraction=0.0), Treated.WHOLE),
        (made(Verdict.EQUAL, fraction=0.0), Treated.WHOLE),
        (made(Verdict.EQUAL, fraction=0.0, warned="there is no plan"), Treated.TOLD),
        (made(Verdict.INCONCLUSIVE), Treated.OPEN),
        (made(Verdict.UNSUPPORTED), Treated.OPEN),
        (made(Verdict.EQUAL, failed="it could not be asked"), Treated.OPEN),
    ],
)
def test_what_became_of_a_case_is_the_worst_that_was_found_and_a_reason_counts(row, kind):
    assert treated(row) == kind


def test_the_line_that_raised_is_the_comparisons_else_the_proofs():
    assert because(made(Verdict.REFUSED, stopped=SAID)) == SAID
    assert because(made(Verdict.REFUSED, Status.REFUSED, raised=SAID)) == SAID
    assert because(made(Verdict.EQUAL, raised=SAID)) is None


def test_a_warning_counts_only_if_it_is_one_and_speaks_of_the_plan():
    def told(level, message):
        return edges.warning(FrameworkAnswer("a@1", log=[LogLine(level, "a", message)]))

    assert told("WARNING", "no tp_plan was found") == "no tp_plan was found"
    assert told("INFO", "no tp_plan was found") == ""
    assert told("WARNING", "the tokenizer is slow") == ""


def test_what_an_ordinary_model_does_too_is_not_the_edges_doing():
    other = Failure("KeyError", "no address", "loop", TrailLine("pkg/loop.py", 9, "step", "mapping[key]"))
    plain = made(Verdict.CRASHED, edge="plain", control=True, stopped=other)
    same, own = made(Verdict.CRASHED, edge="a", stopped=other), made(Verdict.CRASHED, edge="b", stopped=SAID)
    alone, beside = Edges([same, own]), Edges([plain, same, own])
    assert [alone.kind(row) for row in alone.rows] == [Treated.CRASHED, Treated.CRASHED]
    assert [beside.kind(row) for row in beside.rows] == [Treated.ORDINARY, Treated.CRASHED]
    equal = Edges([made(edge="plain", control=True), same])
    assert equal.kind(same) == Treated.CRASHED


def view(rows):
    return View(Study([], (), rows), "nemo@0.7.0", "axolotl@0.19.0")


def test_q2_counts_what_ends_badly_and_follows_the_rows():
    assert judge.black_box(view([])).words == not_yet("experiments.edges")
    rows = [made(edge="one"), made(Verdict.REFUSED, edge="two", stopped=SAID), made(edge="three")]
    found = judge.black_box(view(rows))
    assert found.verdict.startswith("of 3 edge cases 2 sharded and equal, 0 that crash")
    assert "2 sharded and equal (one, three), 1 refused with a reason (two)" in found.words
    assert [one.line for one in found.evidence] == [LINE]
    rows[2] = made(Verdict.DIFFERENT, edge="three")
    assert judge.black_box(view(rows)).verdict.startswith("of 3 edge cases 1 sharded and equal, 1 that crash")


def test_q2_is_open_where_only_the_other_framework_was_asked():
    assert judge.black_box(view([made(framework="nemo@0.7.0")])).verdict == ""


def test_the_section_names_every_case_and_what_is_behind_a_bad_cell():
    assert section.section(Study([])) == []
    bad = made(Verdict.DIFFERENT, edge="two")
    bad.proof.named = [Named(Cause.MISSING_SUM, ["q_norm"], "not summed")]
    lines = section.section(Study([], (), [made(), made(Verdict.REFUSED, edge="three", stopped=SAID), bad]))
    assert any(
        line.startswith("| odd heads: made up | `llama-3.1-8b` | 2 |") and "| sharded and equal |" in line
        for line in lines
    )
    assert any("**silently different**: missing-sum" in line for line in lines)
    assert any("ValueError: heads do not divide" in line and "`pkg/plan.py:7`" in line for line in lines)


def test_every_case_was_asked_of_every_framework_and_none_is_left_open():
    rows = [row for row in store.read(ROOT) if isinstance(row, Edge)]
    names = {case.name for case in edges.cases()}
    assert {(row.framework, row.edge) for row in rows} == {(key, name) for key in edges.ASKED for name in names}
    assert not [(row.framework, row.edge) for row in rows if treated(row) == Treated.OPEN]


def test_the_recorded_rows_hold_good_and_bad_ends():
    kinds = {treated(row) for row in store.read(ROOT) if isinstance(row, Edge)}
    assert {Treated.EQUAL, Treated.REFUSED} <= kinds, kinds
    assert kinds & set(BAD)


def test_transformers_refuses_a_model_without_a_plan_and_shards_an_odd_vocabulary():
    target = registry.parse("transformers@5.23.0")
    chosen = [case for case in edges.cases() if case.name in ("no plan", "odd vocabulary")]
    with Pool(lambda kind, text: None) as pool:
        first, second = edges.measure(Asker("edges", pool), target, chosen)
    assert treated(first) == Treated.REFUSED
    assert "has no `tp_plan`" in because(first).message
    assert treated(second) == Treated.EQUAL
