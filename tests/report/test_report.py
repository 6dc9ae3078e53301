"""`tpscope report` writes what the rows say, and `--check` finds what they or the installed sources do not."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_study import ROWS, column, run, source

from tpscope.errors import NoFramework, UserError
from tpscope.frameworks import overlay, registry
from tpscope.language.layout import Layout
from tpscope.report import build, record, study, verify
from tpscope.report.citations import Sources, citations
from tpscope.report.facts import Study
from tpscope.report.rows import Group, Row, RunRow, SourceRow
from tpscope.report.runs import PLAIN, REPORT, RUNS, WIDE, Set
from tpscope.report.sections import changed

ROOT = Path(__file__).resolve().parents[2]


def written(folder, recorded):
    folder.mkdir(exist_ok=True)
    (folder / build.ROWS).write_text(recorded.text(), encoding="utf-8")
    (folder / build.MARKDOWN).write_text(recorded.page(), encoding="utf-8")
    return folder / build.MARKDOWN


def test_the_default_set_asks_ten_models_at_two_and_eight_ranks():
    runs = REPORT.runs()
    assert len([one for one in runs if one.kind == PLAIN]) == 10
    assert {one.layout.tp for one in runs if one.kind == WIDE} == {8}
    assert set(RUNS) < set(runs)


def test_a_set_of_other_models_takes_them_for_every_part():
    runs = Set(("nemo@0.7.0",), ("phi-4",), (4,)).runs()
    assert {one.model for one in runs} == {"phi-4"}
    assert {one.layout.tp for one in runs} == {4}
    assert len(runs) == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["nemmo"], [], [2]), "did you mean nemo"),
        (([], ["llama-3.1-9b"], [2]), "llama-3.1-8b"),
        (([], [], [1]), "2 ranks or more"),
        ((["installed"], [], [2]), "released versions"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(arguments, words):
    with pytest.raises(UserError, match=words):
        build.asked(*arguments)


@pytest.mark.parametrize(("name", "title"), [("4", "4. DeviceMesh and topology"), ("changed", changed.TITLE)])
def test_a_section_is_found_by_number_or_a_part_of_its_title(name, title):
    assert build.titled(name) == title


def test_an_unknown_section_names_the_closest():
    with pytest.raises(UserError, match=r"4\. DeviceMesh and topology"):
        build.titled("meshes")


def versions(*proofs):
    """Two made-up versions of NeMo: the older one does not sum q_norm's gradient and refuses a model."""
    old, new = column("nemo@0.6.0", "base"), column("nemo@0.7.0")
    new.parameters[1] = Group("model.layers.*.q_norm.weight", 2, "[8]", "Replicate()", "[8]", "sum", "sum")
    rows = [run(answers=[old, new]), replace(source("nemo@0.6.0"), cited=[]), source("nemo@0.7.0")]
    return Study(rows, proofs), rows


def test_the_worst_change_between_two_versions_comes_first():
    known, rows = versions()
    text = "\n".join(changed.section(known))
    assert text.index("**gradient of q_norm**: nemo@0.6.0: none; nemo@0.7.0: sum") < text.index("level that gave")
    assert "base: `base_plan` | optimized: `optimized_plan`" in text
    assert "not measured yet (prove)" in text
    page = study.page(rows)
    assert page.index("## What changed between versions") < page.index("## 1. Overview")
    assert "nemo@0.6.0 to nemo@0.7.0: what changed" in page.splitlines()[0]


def test_two_versions_that_do_the_same_have_no_changes():
    rows = [run(answers=[column("nemo@0.6.0"), column("nemo@0.7.0")]), source("nemo@0.6.0"), source("nemo@0.7.0")]
    assert "Nothing that the recorded runs show differs" in "\n".join(changed.section(Study(rows)))


def test_proofs_of_both_versions_stand_beside_the_change():
    from tpscope.language.proof import Cause, Depth
    from tpscope.language.verdict import Verdict
    from tpscope.report.prove_rows import Cell, Named

    def cell(framework, verdict, *named):
        return Cell(framework, "model-one", "one", "plain", 2, verdict, Depth.LOOP, "words", named=list(named))

    cause = Named(Cause.MISSING_SUM, ["q_norm"], "nobody sums it")
    known, _ = versions(cell("nemo@0.6.0", Verdict.DIFFERENT, cause), cell("nemo@0.7.0", Verdict.EQUAL))
    text = "\n".join(changed.section(known))
    assert "different, missing-sum to equal (model-one)" in text
    assert "| plain | different, missing-sum | equal | `model-one` |" in text


def test_a_version_that_cannot_be_installed_is_a_column_that_says_so(monkeypatch):
    class Pool:
        def prepare(self, targets):
            if targets[0].version == "9.9.9":
                raise UserError("could not install nemo@9.9.9: no such set of packages")

    there, missing = record._installed([registry.parse("nemo@0.7.0"), registry.parse("nemo@9.9.9")], Pool())
    assert [target.id for target in there] == ["nemo@0.7.0"]
    row = record._with_missing(run(answers=[column("nemo@0.7.0")]), ("nemo@9.9.9", "nemo@0.7.0"), missing)
    assert [answer.id for answer in row.answers] == ["nemo@9.9.9", "nemo@0.7.0"]
    text = study.page([row, source("nemo@0.7.0")])
    assert "nemo@9.9.9 | status | is not there: could not install it: no such set of packages" in text
    with pytest.raises(NoFramework, match="no framework could be run"):
        record._installed([registry.parse("nemo@9.9.9")], Pool())


def test_the_rows_of_a_report_give_its_page_again(tmp_path):
    recorded = build.Recorded(ROWS, [])
    path = written(tmp_path, recorded)
    again = build.read(path.with_suffix(".jsonl"))
    assert again == recorded
    assert again.page() == path.read_text(encoding="utf-8")


def test_files_are_written_all_or_none(tmp_path):
    from tpscope.render.document import write_all

    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_all({tmp_path / "a": "text", tmp_path / "b": "text"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    write_all({tmp_path / "a": "text", tmp_path / "c": "more"})
    assert (tmp_path / "a").read_text() == "text"


def test_progress_counts_and_estimates():
    from rich.console import Console

    from tpscope.render.steps import Steps

    now = iter([0.0, 0.0, 10.0, 20.0])
    console = Console(record=True, width=200, force_terminal=False)
    steps = Steps(4, console, lambda: next(now))
    for model in ("a", "b", "c"):
        steps(f"tpscope compare {model} --tp 2 --with nemo@0.7.0")
    assert console.export_text().splitlines() == [
        "1 of 4: tpscope compare a --tp 2",
        "2 of 4, about 30 s to go: tpscope compare b --tp 2",
        "3 of 4, about 20 s to go: tpscope compare c --tp 2",
    ]


def test_a_check_without_rows_says_so(tmp_path):
    (tmp_path / "x.md").write_text("text")
    with pytest.raises(UserError, match=r"x\.jsonl"):
        verify.check(tmp_path / "x.md")
    with pytest.raises(UserError, match="no such file"):
        verify.check(tmp_path / "y.md")
    (tmp_path / "x.jsonl").write_text("not a row\n")
    with pytest.raises(UserError, match="no row of a report"):
        verify.check(tmp_path / "x.md")


@pytest.fixture
def real(tmp_path):
    """The recorded study as a report in a folder. Its sources must be installed."""
    if not (ROOT / study.ROWS).is_file():
        pytest.skip("the study has not been recorded in this checkout")
    recorded = build.Recorded(study.recorded(ROOT), [])
    if any(Sources(recorded.rows).gone(key) for key in Study(recorded.rows).frameworks):
        pytest.skip("the study's framework versions are not installed")
    return recorded, written(tmp_path / "out", recorded)


@pytest.mark.frameworks
class TestAgainstTheInstalledSources:
    def test_every_citation_and_run_resolves(self, real):
        found = verify.check(real[1])
        assert found.problems == []
        assert found.citations + found.runs >= 150
        assert found.runs == found.commands == len(RUNS)
        assert found.quoted > 50

    def test_an_added_sentence_is_named_with_its_line(self, real):
        path = real[1]
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join([*lines[:40], "An opinion.", *lines[40:]]) + "\n", encoding="utf-8")
        (problem,) = verify.check(path).problems
        assert str(problem) == "report.md:41: sentence without evidence: no row gives 'An opinion.'"

    def test_a_deleted_run_is_named(self, real):
        recorded, path = real
        gone = next(row for row in recorded.rows if isinstance(row, RunRow) and row.question.kind == WIDE)
        kept: list[Row] = [row for row in recorded.rows if row is not gone]
        path.with_suffix(".jsonl").write_text(build.Recorded(kept, []).text(), encoding="utf-8")
        problems = verify.check(path).problems
        assert any(problem.what == f"run `{gone.command}`" for problem in problems)
        assert all(re.match(r"report\.(md|jsonl)", problem.where) for problem in problems)

    def test_a_fragment_changed_by_one_character_is_named(self, real, tmp_path, monkeypatch):
        recorded, path = real
        cited = next(item for item in citations(recorded.rows) if item.framework == "nemo@0.7.0")
        roots = {row.framework: overlay.installed(registry.parse(row.framework)).path for row in recorded.rows
                 if isinstance(row, SourceRow)}  # fmt: skip
        monkeypatch.setenv("TPSCOPE_CACHE", str(tmp_path / "cache"))
        for row in recorded.rows:
            if isinstance(row, SourceRow):
                there = overlay.overlay_path(registry.parse(row.framework))
                for name in [overlay.MANIFEST, *(file.path for file in row.files)]:
                    (there / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(roots[row.framework] / name, there / name)
        assert verify.check(path).problems == []
        file = overlay.overlay_path(registry.parse(cited.framework)) / cited.path
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        lines[cited.line - 1] = lines[cited.line - 1].replace(cited.text, cited.text[:-1] + "~")
        file.write_text("".join(lines), encoding="utf-8")
        said = [str(problem) for problem in verify.check(path).problems]
        assert any(f"{cited.framework} {cited.place}" in text and "not in the file any more" in text for text in said)
        assert any(f"{cited.framework} {cited.path}: sha256" in text for text in said)
        assert not [text for text in said if cited.path not in text]
        shutil.rmtree(overlay.overlay_path(registry.parse("nemo@0.2.0")))
        assert any("nemo@0.2.0: is not installed" in str(problem) for problem in verify.check(path).problems)

    def test_a_line_that_moved_is_named_with_where_it_stands_now(self, real):
        recorded, path = real
        lines = [json.loads(text) for text in recorded.text().splitlines()]
        where = next(row for row in lines if row["row"] == "source")["cited"][0]["where"]
        where["line"] += 1
        text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in lines)
        path.with_suffix(".jsonl").write_text(text, encoding="utf-8")
        assert any(f"stands in line {where['line'] - 1} now" in problem.why for problem in verify.check(path).problems)


def test_a_layout_names_the_runs_of_a_mesh():
    assert {one.layout for one in Set(models=("phi-4",), tps=(4,)).runs() if one.kind == "mesh"} >= {
        Layout(dp_shard=2, tp=4)
    }
