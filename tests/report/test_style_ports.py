"""A style class is judged by what it does on two real ranks: the same is found equal, the wrong is found different."""

import copy
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, SequenceParallel

from tpscope.compare.run import Pool
from tpscope.frameworks import registry
from tpscope.frameworks.inside.experiments import style_cases, style_ranks, styles
from tpscope.frameworks.inside.experiments.style_cases import CASES
from tpscope.frameworks.inside.experiments.style_judge import against_whole, beside, error
from tpscope.frameworks.inside.experiments.style_ports import (
    ColwiseEachModule,
    FirstDimSharded,
    ReplicatedSummed,
    SequenceParallelFrozen,
)
from tpscope.frameworks.inside.experiments.style_ranks import Left, sharded, whole
from tpscope.language.answer import TrailLine
from tpscope.language.measured.port import Means, Outcome, Trial, Try
from tpscope.report import study
from tpscope.report.experiments import store
from tpscope.report.experiments import styles as experiment
from tpscope.report.experiments.asking import Asker
from tpscope.report.experiments.style_rows import Port, Style, counterpart, ported, why
from tpscope.report.facts import Study
from tpscope.report.judges import ports
from tpscope.report.judges.view import View
from tpscope.report.rows import STYLE, Provenance, SourceRow
from tpscope.report.sections import ports as section
from tpscope.report.text import not_yet

ROOT = Path(__file__).resolve().parents[2]
WHERE = TrailLine("pkg/styles.py", 3, "Made", "class Made(ColwiseParallel):")


class Raises(ParallelStyle):
    """Cannot be applied."""

    def _apply(self, module, device_mesh):
        raise NotImplementedError("only for others")


class Hangs(ParallelStyle):
    """Never ends."""

    def _apply(self, module, device_mesh):
        time.sleep(60)


@pytest.fixture(autouse=True)
def one_thread():
    """As in a framework's interpreter: the threads of an OpenMP pool are not in a fork, which would wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(scene, made, tmp_path):
    return sharded(scene, made, 2, tmp_path)


def judged(name, made, tmp_path):
    """A style in the scene of one of NeMo's, against the unsharded module."""
    scene = CASES[name].scene
    return against_whole(run(scene, made, tmp_path), whole(scene), scene, styles.tolerance(scene))


def test_rowwise_is_equal_to_itself_and_to_the_whole_module(tmp_path):
    scene = CASES["_Gemma4RowwiseParallel"].scene
    one, other = (run(scene, lambda: (RowwiseParallel(),), tmp_path) for _ in range(2))
    assert beside(one, other, 0.0).outcome == Outcome.EQUAL
    assert judged("_Gemma4RowwiseParallel", lambda: (RowwiseParallel(),), tmp_path).outcome == Outcome.EQUAL


def test_colwise_in_the_place_of_rowwise_is_different(tmp_path):
    scene = CASES["_Gemma4RowwiseParallel"].scene
    right = run(scene, lambda: (RowwiseParallel(),), tmp_path)
    wrong = run(scene, lambda: (ColwiseParallel(input_layouts=Shard(2)),), tmp_path)
    found = beside(right, wrong, styles.tolerance(scene))
    assert found.outcome == Outcome.DIFFERENT
    assert found.said


def test_a_bias_added_on_every_rank_is_different(tmp_path):
    class Doubled(RowwiseParallel):
        @staticmethod
        def _prepare_output_fn(output_layouts, use_local_output, mod, outputs, device_mesh):
            made = RowwiseParallel._prepare_output_fn(output_layouts, use_local_output, mod, outputs, device_mesh)
            return made + mod.bias.to_local()

    found = judged("_Gemma4RowwiseParallel", lambda: (Doubled(),), tmp_path)
    assert found.outcome == Outcome.DIFFERENT
    assert found.said.startswith("output 0 is")


def test_a_gradient_that_no_rank_sums_is_different_and_a_summed_one_equal(tmp_path):
    name = "ReplicatedWithGradAllReduce"
    left_out = judged(name, tuple, tmp_path)
    assert left_out.outcome == Outcome.DIFFERENT
    assert left_out.said.startswith("gradient of q_norm.weight")
    assert judged(name, lambda: (ReplicatedSummed(),), tmp_path).outcome == Outcome.EQUAL


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("ColwiseParallelLora", ColwiseEachModule),
        ("SequenceParallelLora", lambda: SequenceParallelFrozen(use_local_output=True)),
        ("ExpertParallel", FirstDimSharded),
    ],
)
def test_a_patch_is_equal_to_the_whole_module(name, patch, tmp_path):
    assert judged(name, lambda: (patch(),), tmp_path).outcome == Outcome.EQUAL


def test_what_trains_is_compared_too(tmp_path):
    scene = CASES["SequenceParallelLora"].scene
    frozen = run(scene, lambda: (SequenceParallelFrozen(use_local_output=True),), tmp_path)
    trained = run(scene, lambda: (SequenceParallel(use_local_output=True),), tmp_path)
    assert "norm.weight trains" in beside(frozen, trained, 1e-12).said


def test_a_dtensor_where_the_style_gives_a_plain_tensor_is_different(tmp_path):
    scene = CASES["_Gemma4RowwiseParallel"].scene
    plain = run(scene, lambda: (RowwiseParallel(),), tmp_path)
    distributed = run(scene, lambda: (RowwiseParallel(use_local_output=False),), tmp_path)
    assert beside(plain, distributed, 1e-12).said == (
        "output 0 of the module is Replicate() where the style gives a plain tensor"
    )


def test_what_a_style_raises_is_the_answer(tmp_path):
    found = judged("_Gemma4RowwiseParallel", lambda: (Raises(),), tmp_path)
    assert (found.outcome, found.said) == (Outcome.RAISED, "NotImplementedError: only for others")


def test_a_rank_that_hangs_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(style_ranks, "SECONDS", 2.0)
    found = judged("_Gemma4RowwiseParallel", lambda: (Hangs(),), tmp_path)
    assert (found.outcome, found.said) == (Outcome.RAISED, "no answer within 2 s")


def test_tolerance_lies_between_rounding_and_the_smallest_fault():
    scene = CASES["_Gemma4RowwiseParallel"].scene
    limit, one = styles.tolerance(scene), torch.ones(3, dtype=torch.float64)
    assert error(one + 2e-16, one) <= limit < error(one * (1 + 1e-9), one)
    assert error(one * float("nan"), one) == error(one[:2], one) == float("inf")
    assert error(one, one * 0) == float("inf")


def test_a_scene_whose_gradient_is_zero_proves_nothing():
    scene = CASES["_Gemma4RowwiseParallel"].scene
    found = whole(scene)
    styles._no_gradient_is_zero(found)
    found["gradient of bias"].local.zero_()
    with pytest.raises(AssertionError, match="would prove nothing"):
        styles._no_gradient_is_zero(found)


def test_every_control_is_there_and_every_other_counterpart_is_plain_or_ours():
    for name, case in CASES.items():
        assert [one.means for one in case.tried].count(Means.CONTROL) == 1, name
        for one in case.tried:
            ours = any(type(style).__module__.endswith("style_ports") for style in one.styles())
            plain = all(type(style).__module__.startswith("torch.") for style in one.styles())
            assert ours if one.means == Means.PATCH else plain or one.means == Means.CONTROL, name


def test_lines_are_counted_without_docstring_and_empty_lines():
    assert styles.counted('class One:\n    """Said."""\n\n    def two(self):\n        return 3\n') == 3
    assert styles.counted("class One:\n    two = 3\n") == 2


def made(*tries, own=Outcome.EQUAL, control=Outcome.DIFFERENT):
    """A row made by hand: nothing of it was run."""
    trial = Trial("Made", "a scene", 2, 1e-12, own=Try(Means.STYLE, "Made", own, "it raised"), tries=[
        *tries, Try(Means.CONTROL, "Wrong()", control)])  # fmt: skip
    return Style(
        framework="nemo@0.7.0", command="by hand", made=Provenance("0", "2026-01-02", {}), style="Made",
        extends="ColwiseParallel", where=WHERE, trial=trial,
    )  # fmt: skip


EQUAL = Try(Means.STYLE, "Plain()", Outcome.EQUAL, error=0.0)
PATCH = Try(Means.PATCH, "Ours()", Outcome.EQUAL, error=0.0, source="class Ours:\n    pass\n", lines=2)
FAILS = Try(Means.STYLE, "Plain()", Outcome.RAISED, "KeyError: no")


def test_a_plain_style_that_is_equal_covers_a_patch_ports_and_neither_is_not_portable():
    assert ported(made(PATCH, EQUAL)) == Port.COVERED
    assert counterpart(made(PATCH, EQUAL)) == EQUAL
    assert ported(made(FAILS, PATCH)) == Port.PORTABLE
    assert ported(made(FAILS)) == Port.NOT
    assert why(made(FAILS)) == "Plain(): KeyError: no"


def test_a_control_that_comes_out_equal_leaves_nothing_said():
    assert ported(made(EQUAL, control=Outcome.EQUAL)) == Port.OPEN
    assert ported(made(EQUAL, control=Outcome.RAISED)) == Port.COVERED


def test_a_class_that_raises_itself_or_was_not_tried_is_told_so():
    assert ported(made(EQUAL, own=Outcome.RAISED)) == Port.NOT
    row = made()
    row.trial = Trial("Made", missing="no scene")
    assert (ported(row), why(row)) == (Port.OPEN, "no scene")


def view(rows):
    return View(Study([], (), rows), "nemo@0.7.0", "axolotl@0.19.0")


def test_q3_counts_the_classes_and_follows_the_trials():
    assert ports.upstream(view([])).words == not_yet("experiments.styles")
    rows = [made(EQUAL), made(FAILS, PATCH)]
    assert ports.upstream(view(rows)).verdict == "1 of 2 covered already, 1 portable with at most 2 lines"
    rows[1] = made(FAILS)
    assert ports.upstream(view(rows)).verdict == "1 of 2 covered already, 1 not portable"


def test_the_section_shows_each_class_every_try_and_each_patch_once():
    assert section.section(Study([])) == []
    older = replace(made(FAILS, PATCH), framework="nemo@0.2.0")
    lines = section.section(Study([], (), [older, made(FAILS, PATCH)]))
    assert sum("| `Made` | a scene | **portable** |" in line for line in lines) == 1
    assert any(line.startswith("| nemo@0.2.0, nemo@0.7.0 | `Made` |") for line in lines)
    assert lines.count("class Ours:") == 1
    assert any("KeyError: no" in line for line in lines)


def test_every_class_that_the_sources_list_was_tried_and_told_from_its_control():
    sources = [row for row in study.recorded(ROOT) if isinstance(row, SourceRow) and row.framework.startswith("nemo@")]
    listed = {(row.framework, item.name) for row in sources for item in row.cited if item.what == STYLE}
    rows = [row for row in store.read(ROOT) if isinstance(row, Style)]
    assert {(row.framework, row.style) for row in rows} == listed
    assert not [row.style for row in rows if ported(row) == Port.OPEN]


def test_a_class_without_a_scene_is_said_to_have_none(tmp_path):
    (found,) = styles.answer("nemo", copy.copy(_Case(tmp_path)), {"styles": [{"name": "Newer", "path": "a/b.py"}]})
    assert "no scene" in found.missing


class _Case:
    def __init__(self, folder):
        self.folder = folder


def test_nemos_rowwise_lora_style_is_covered_by_the_plain_one_as_it_is():
    target = registry.parse("nemo@0.7.0")
    with Pool(lambda kind, text: None) as pool:
        pool.prepare([target])
        (cited,) = [item for item in experiment.defined(target) if item.name == "RowwiseParallelLora"]
        answer = Asker("styles", pool).ask(
            "styles", target, "llama-3.2-1b", {"styles": [{"name": cited.name, "path": cited.where.path}]}
        )
    (trial,) = experiment._TRIALS.validate_python(answer.value)
    row = replace(made(), trial=trial)
    assert ported(row) == Port.COVERED
    assert counterpart(row).text.startswith("RowwiseParallel(")
    assert not isinstance(nn.Linear(2, 2).weight, DTensor)


def test_a_part_of_a_tensor_is_its_chunk_and_a_replica_the_whole():
    tensor = torch.arange(6.0).view(2, 3)
    assert torch.equal(style_ranks.part(tensor, Shard(0), 1, 2), tensor[1:])
    assert torch.equal(style_ranks.part(tensor, Replicate(), 1, 2), tensor)
    assert isinstance(Left(), Left)
    assert style_cases.CASES
