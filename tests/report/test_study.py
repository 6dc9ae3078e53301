"""The study is a pure function of its recorded rows: nothing in it that no row said, no cell empty, no file stale."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tpscope.compare.result import Difference
from tpscope.language.answer import (
    Failure,
    FrameworkAnswer,
    Head,
    LoraAnswer,
    Mesh,
    ParameterRow,
    PlanRow,
    Selection,
    Step,
    TrailLine,
)
from tpscope.language.layout import Layout, Lora
from tpscope.language.verdict import Reduction, Severity, Status
from tpscope.report import study
from tpscope.report.facts import Study, blamed, findings, merged
from tpscope.report.rows import (
    SETTING,
    STYLE,
    Cited,
    Column,
    File,
    Group,
    Provenance,
    Question,
    RunRow,
    SourceRow,
    line,
    read,
    write,
)
from tpscope.report.runs import ADAPTERS, FRAMEWORKS, MESH, PLAIN, RUNS, SEQUENCE, Run

ROOT = Path(__file__).resolve().parents[2]
MADE = Provenance("0123abc", "2026-01-02", {"cpus": 3, "platform": "a machine"})
WHERE = TrailLine("pkg/plans.py", 41, "choose", "if cls in PARALLELIZE_FUNCTIONS:")
TITLES = (
    "1. Overview and scope", "2. Core architecture", "3. TP plan definition and hierarchy",
    "4. DeviceMesh and topology", "5. Custom ParallelStyle classes", "6. Model-specific optimizations",
    "7. Sequence parallelism", "8. LoRA compatibility", "9. Hugging Face integration",
    "10. Configuration and flexibility", "11. Summary and recommendations",
)  # fmt: skip


def column(identifier, level="optimized", **more):
    """A framework that sharded the model: made by hand, nothing of it was run."""
    steps = [
        Step("custom", "a custom plan is given", "not asked: not so here"),
        Step(level, "the class is known", "gave the plan"),
        Step("base", "nothing else gave a plan", "not reached"),
    ]
    experiments = [
        {"custom": "none", "registry": "absent", "outcome": "base"},
        {"custom": "given", "registry": "absent", "outcome": "custom"},
    ]
    return Column(
        id=identifier, packages={"torch": "9.9", "transformers": "7.7"}, model_class="made_up.models.Model",
        selection=Selection(level, f"pkg/plans.py:{level}_plan", steps, experiments, [WHERE]), ran={"pkg/plans.py": 12},
        plan=[PlanRow("model.layers.*.q_proj", "colwise", "colwise", True, {"weight": "Shard(dim=0)"}, "Replicate()",
                      "Shard(dim=2)", [], ["all_reduce"], "none", 2)],
        parameters=[Group("model.layers.*.q_proj.weight", 2, "[8, 8]", "Shard(dim=0)", "[4, 8]", "sharded", "sharded"),
                    Group("model.layers.*.q_norm.weight", 2, "[8]", "Replicate()", "[8]", "sum", "none")],
        total_parameters=144, sharded_fraction=0.5, head=Head("lm_head", "colwise", "Shard(dim=2)", "loss"),
        mesh=Mesh({"tp": 2}, {}, "make_mesh"), collectives={"forward": {"all_reduce": 5}}, shims=["a stand-in"], **more,
    )  # fmt: skip


def refusal(identifier, words="no thanks"):
    """A framework that declined."""
    return Column(id=identifier, status=Status.REFUSED, error=Failure("ValueError", words, "refusals", WHERE))


def run(model="model-one", kind=PLAIN, layout=None, answers=None, differences=(), lora=None):
    """One recorded comparison of two made-up frameworks."""
    asked = Question(kind, model, layout or Layout(tp=2), "OneForCausalLM", "by hand", "confirmed", lora)
    return RunRow(
        f"tpscope compare {model} --kind {kind}", MADE, asked, answers or [column("one@1.0"), column("two@2.0", "hf")],
        list(differences),
    )  # fmt: skip


def source(identifier):
    """What was read in a made-up framework's source."""
    style = Cited(STYLE, "OwnStyle", "ParallelStyle", TrailLine("pkg/styles.py", 7, "OwnStyle", "class OwnStyle:"))
    setting = Cited(SETTING, "tp_size", "int", TrailLine("pkg/config.py", 9, "Config", "tp_size: int = 1"))
    return SourceRow(identifier, MADE, [style, setting], [File("pkg/plans.py", 99, "f" * 64)], ["llama"])


WRONG = Difference(
    "gradient of q_norm", {"one@1.0": "none", "two@2.0": "sum"},
    "q_norm: one@1.0 replicates it and nobody sums its gradient, two@2.0 replicates it and sums its gradient over tp",
    Severity.WRONG,
)  # fmt: skip
ROWS = [
    run(differences=[WRONG]),
    run("model-two", answers=[refusal("one@1.0"), column("two@2.0", "hf")], differences=[
        Difference("status", {"one@1.0": "refused", "two@2.0": "ok"}, "one@1.0 refuses: no thanks", Severity.BLOCKS)]),
    run("model-one", SEQUENCE, Layout(tp=2, sequence_parallel=True)),
    run("model-one", ADAPTERS, lora=Lora(16, 32, ("all-linear",)),
        answers=[column("one@1.0", lora=LoraAnswer(True, "add_lora", 14)), refusal("two@2.0", "no LoRA")]),
    run("model-one", MESH, Layout(dp_shard=2, tp=2)),
    source("one@1.0"),
    source("two@2.0"),
]  # fmt: skip


def tables(text):
    """Every table row of a Markdown text as its cells."""
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    return [re.split(r"(?<!\\)\|", row.strip("|")) for row in rows]


def test_the_sections_are_the_eleven_of_the_brief_in_its_order():
    found = re.findall(r"^## (\d+\. .*)$", study.page(ROWS), re.M)
    assert tuple(found) == TITLES


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], []], ids=["all", "one run", "nothing"])
def test_no_table_cell_is_empty_and_every_table_follows_a_sentence(rows):
    lines = study.page(rows).splitlines()
    for cells in tables("\n".join(lines)):
        assert all(cell.strip() for cell in cells), cells
    for index, text in enumerate(lines):
        if text.startswith("|---"):
            assert lines[index - 2] == ""
            assert lines[index - 3].endswith((".", ":")), lines[index - 3]


def test_the_text_says_what_the_rows_say():
    text = study.page(ROWS)
    assert "optimized: `plans.py:optimized_plan`" in text
    assert "`pkg/plans.py:41` in `choose`: `if cls in PARALLELIZE_FUNCTIONS:`" in text
    assert "`OwnStyle`" in text
    assert "14 modules, by `add_lora`" in text
    assert "| wrong | one@1.0 | gradient of q_norm | replicates it and nobody sums its gradient | model-one |" in text
    assert "marked sum, then none" in text


def test_what_no_row_says_is_not_measured_yet_and_names_the_verb():
    text = study.page([])
    for verb in ("prove", "price", "bench", "migrate", "recommend", "compare"):
        assert f"ot measured yet ({verb})" in text, verb
    without = study.page([row for row in ROWS if getattr(row, "question", None) is None or row.question.kind == PLAIN])
    section = without.partition("\n## 8. ")[2].partition("\n## 9. ")[0]
    assert section.strip().endswith("Not measured yet (compare).")


def test_an_unobserved_gradient_is_left_to_the_proof():
    unseen = column("one@1.0")
    unseen.parameters[1] = replace(unseen.parameters[1], gradient_loop="unobserved")
    assert "marked sum, then not measured yet (prove)" in study.page([run(answers=[unseen, column("two@2.0")])])


def test_a_gradient_is_held_against_the_column_that_does_not_sum_it():
    assert blamed(WRONG) == {"one@1.0": "replicates it and nobody sums its gradient"}
    clear = study.page(ROWS).partition("### Clear of findings")[2].partition("###")[0]
    assert "| `model-one` | 1 wrong | clear |" in clear


def test_a_sentence_about_two_frameworks_is_held_against_neither():
    levels = {"one@1.0": "optimized", "two@2.0": "hf"}
    said = "one@1.0 takes the plan of level optimized, two@2.0 takes the plan of level hf"
    assert blamed(Difference("plan level", levels, said, Severity.NOTE)) == {}
    alone = Difference("logits", levels, "two@2.0: the plan itself gathers the logits", Severity.COST)
    assert blamed(alone) == {"two@2.0": "the plan itself gathers the logits"}
    both = Difference("logits", levels, "one@1.0 (style colwise), two@2.0: the plan gathers", Severity.COST)
    assert blamed(both) == {"one@1.0": "the plan gathers (style colwise)", "two@2.0": "the plan gathers"}


def test_the_same_finding_in_two_models_is_one_row():
    found = merged(findings(Study([run(differences=[WRONG]), run("model-two", differences=[WRONG])])))
    assert [(item.subject, item.runs) for item in found] == [("gradient of q_norm", ("model-one", "model-two"))]


def test_rows_survive_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    write(path, ROWS)
    again = read(path.read_text(encoding="utf-8"))
    assert again == ROWS
    assert study.page(again) == study.page(ROWS)


def test_the_axes_of_a_mesh_keep_their_order():
    mesh = Mesh({"pp": 2, "dp_shard": 2, "cp": 2, "tp": 2}, {}, "make_mesh")
    row = run(kind=MESH, answers=[replace(column("one@1.0"), mesh=mesh)])
    assert "pp=2, dp_shard=2, cp=2, tp=2" in study.page(read(line(row)))


def recorded(root, rows=ROWS):
    write(root / study.ROWS, rows)
    study.generate(root)


def test_check_is_content_with_what_generate_wrote(tmp_path):
    recorded(tmp_path)
    assert study.problems(tmp_path, runs=()) == []


def test_check_finds_an_edited_file_and_names_its_line(tmp_path, capsys):
    recorded(tmp_path)
    path = tmp_path / study.STUDY
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:6], "An opinion.\n", *lines[7:]]), encoding="utf-8")
    (sentence,) = study.problems(tmp_path, runs=())
    assert sentence.startswith(f"{study.STUDY}:7: differs")
    assert "An opinion." in sentence
    assert study.main(["--check"], tmp_path) == 1
    assert f"{study.STUDY}:7" in capsys.readouterr().err


def test_check_finds_a_changed_row(tmp_path):
    recorded(tmp_path)
    changed = [replace(ROWS[0], answers=[column("one@1.0", "base"), *ROWS[0].answers[1:]]), *ROWS[1:]]
    write(tmp_path / study.ROWS, changed)
    assert any(sentence.startswith(study.STUDY) for sentence in study.problems(tmp_path, runs=()))


def test_check_finds_a_missing_file_and_a_run_without_a_row(tmp_path):
    recorded(tmp_path)
    (tmp_path / study.SPECIFICATION).unlink()
    wanted = Run(PLAIN, "model-three", Layout(tp=2))
    found = study.problems(tmp_path, runs=[wanted])
    assert any(wanted.command() in sentence for sentence in found)
    assert any(sentence.startswith(f"{study.SPECIFICATION}:1") for sentence in found)


def test_without_rows_the_user_is_told_what_to_run(tmp_path, capsys):
    assert study.main(["--check"], tmp_path) == 2
    assert "python -m tpscope.report.study" in capsys.readouterr().err


def test_the_command_of_a_run_is_the_one_that_a_user_types():
    asked = Run(SEQUENCE, "qwen3-8b", Layout(dp_shard=2, tp=4, sequence_parallel=True), "r=16")
    assert asked.command(("nemo@0.7.0",)) == (
        "tpscope compare qwen3-8b --dp-shard 2 --tp 4 --sequence-parallel --lora r=16 --with nemo@0.7.0"
    )


def test_an_answer_is_cut_down_without_losing_what_the_text_needs():
    from tpscope.report.record import GRADIENT_TRAIL, TRAIL, compact

    lines = [TrailLine("pkg/a.py", number, f"f{number % 7}", f"x = {number}") for number in range(300)]
    telling = TrailLine("pkg/b.py", 5, "choose", "plan = registry[cls]")
    answer = FrameworkAnswer(
        id="one@1.0", loop_error=Failure("KeyError", "93918208070976", "training loop", WHERE, "a long traceback"),
        selection=Selection("hf", "f", trail=[*lines, telling]), gradient_trail=lines,
        parameters=[ParameterRow(f"model.layers.{layer}.mlp.up_proj.weight", [8, 8], "Shard(dim=0)", [4, 8],
                                 Reduction.SHARDED, Reduction.SHARDED) for layer in range(4)],
    )  # fmt: skip
    kept = compact(answer)
    assert len(kept.selection.trail) == TRAIL
    assert len(kept.gradient_trail) == GRADIENT_TRAIL
    assert telling in kept.selection.trail
    assert kept.ran == {"pkg/a.py": 600, "pkg/b.py": 1}
    assert [(group.name, group.count) for group in kept.parameters] == [("model.layers.*.mlp.up_proj.weight", 4)]
    assert kept.loop_error is not None
    assert (kept.loop_error.message, kept.loop_error.traceback) == ("<address>", "")


def test_style_classes_are_found_wherever_they_descend_from(tmp_path):
    from tpscope.report.sources import _styles

    (tmp_path / "a.py").write_text(
        "class Own(ColwiseParallel):\n    pass\n\ndef f():\n    class Inner(Own):\n        pass\n"
        "\nclass Parallel(Sampler):\n    pass\n"
    )
    found = _styles(tmp_path, tmp_path.rglob("*.py"), STYLE)
    assert [(item.name, item.where.line) for item in found] == [("Own", 1), ("Inner", 5)]


def test_the_line_that_does_what_a_style_is_for_is_cited_from_inside_its_class(tmp_path):
    from tpscope.report.sources import _bodies, _styles

    (tmp_path / "a.py").write_text(
        "def elsewhere(inputs, new_inputs):\n    return type(inputs)(new_inputs)\n\n"
        "class RotaryEmbedParallel(SequenceParallel):\n    def f(inputs, new_inputs):\n"
        "        return type(inputs)(new_inputs)\n\nclass Qwen3QKNorm(SequenceParallel):\n    pass\n"
    )
    styles = _styles(tmp_path, tmp_path.rglob("*.py"), STYLE)
    assert [(item.name, item.where.line) for item in _bodies(tmp_path, styles)] == [("RotaryEmbedParallel", 6)]


@pytest.mark.skipif(not (ROOT / study.ROWS).is_file(), reason="the study has not been recorded in this checkout")
class TestCommitted:
    def test_the_study_is_current(self):
        assert study.problems(ROOT) == []

    def test_check_is_light(self):
        code = (
            "import sys; from tpscope.report import study; code = study.main(['--check']); "
            "print(code, 'torch' in sys.modules, 'transformers' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=10)
        assert done.stdout.split() == ["0", "False", "False"], done.stderr

    def test_every_framework_and_run_is_in_the_rows(self):
        rows = read((ROOT / study.ROWS).read_text(encoding="utf-8"))
        assert {row.framework for row in rows if isinstance(row, SourceRow)} == set(FRAMEWORKS)
        assert {row.command for row in rows if isinstance(row, RunRow)} == {wanted.command() for wanted in RUNS}
        assert (ROOT / study.ROWS).stat().st_size < 2_000_000

    def test_an_edit_of_the_committed_study_would_be_found(self, tmp_path):
        rows = [f"results/{file.name}" for file in (ROOT / "results").glob("*.jsonl")]
        for name in (study.STUDY, study.SPECIFICATION, *rows):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
        path = tmp_path / study.STUDY
        path.write_text(path.read_text(encoding="utf-8").replace("tensor parallelism", "magic", 1), encoding="utf-8")
        assert len(study.problems(tmp_path)) == 1
