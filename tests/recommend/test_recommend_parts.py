"""The parts of a recommendation that need no framework: layouts, configs, the ranking, the page."""

import json
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from tpscope.errors import UserError
from tpscope.frameworks import registry
from tpscope.frameworks.runner import Environment
from tpscope.language.answer import TrailLine
from tpscope.language.layout import Layout, Lora
from tpscope.language.proof import Cause, Diagnosis, ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.models.read import read
from tpscope.prove.result import Proofs
from tpscope.prove.scenarios import parse
from tpscope.recommend import rank, trial
from tpscope.recommend.ask import LORA, Asked, layouts, wanted
from tpscope.recommend.config import Settings, written
from tpscope.recommend.result import UNMEASURED, Candidate, Recommendation, Standing
from tpscope.render import document
from tpscope.render import recommend as page

WAYS = ["plain", "clip", "clip+fsdp"]


def place(tmp_path, *modules):
    for module in modules:
        file = tmp_path / "nemo_automodel" / module
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return Environment(Path("python"), (), (tmp_path,), "", {})


def candidate(framework, verdicts, **changes):
    proved = [
        ProofAnswer(framework, "m", name, 2, verdict) for name, verdict in zip(WAYS, verdicts, strict=False)
    ]  # fmt: skip
    layout = {"pp": 1, "dp_replicate": 1, "dp_shard": 4, "cp": 1, "tp": 2, "world": 8, "sequence_parallel": False}
    return Candidate(framework, layout, {}, **{"ways": WAYS, "cases": proved, "sharded_fraction": 0.9, **changes})


EQUAL = [Verdict.EQUAL] * 3


def test_the_layout_is_the_smallest_tp_that_divides_and_fsdp_over_the_rest():
    assert layouts(wanted(Asked("llama-3.1-8b", 8)), 8) == [Layout(dp_shard=4, tp=2), Layout(tp=8)]
    assert layouts(wanted(Asked("llama-3.1-8b", 2)), 2) == [Layout(tp=2)]
    assert layouts(wanted(Asked("llama-3.1-8b", 8, tp=4)), 8) == [Layout(dp_shard=2, tp=4)]


def test_tp_over_all_ranks_is_no_layout_where_it_cuts_heads():
    assert layouts(wanted(Asked("llama-3.1-8b", 16)), 16) == [Layout(dp_shard=8, tp=2)]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked("llama-3.1-8b", 3), "with 2 or 4 ranks one does"),
        (Asked("llama-3.1-8b", 8, tp=3), "write --tp 2, 4 or 8"),
        (Asked("gemma-3-1b", 4), "no tp of 2 or more divides the 4 attention heads and 1 key-value heads"),
    ],
)
def test_a_world_without_a_layout_is_the_users_to_change(asked, words):
    with pytest.raises(UserError, match=words):
        layouts(wanted(asked), asked.world)


@pytest.mark.parametrize("name", ["nemo", "axolotl"])
@pytest.mark.parametrize("lora", [None, LORA, Lora(8, 16, ("q_proj", "v_proj"), 0.1)], ids=str)
def test_a_config_reads_back_as_what_was_asked_for(name, lora, tmp_path):
    spec, _ = read("qwen3-8b")
    layout = Layout(dp_shard=4, tp=2, sequence_parallel=name == "nemo")
    where = place(tmp_path, "components/distributed/config.py")
    text = written(registry.parse(name), where, spec, "Qwen/Qwen3-8B", layout, Settings(lora=lora))
    file = tmp_path / "my.yaml"
    file.write_text(text)
    again, intent = read(str(file))
    assert (again.name, intent.kind, intent.layout) == ("qwen3-8b", name, layout)
    assert intent.stated >= {"tp", "dp_shard"}
    found = intent.lora
    assert (found is None) == (lora is None)
    if found and lora:
        assert (found.r, found.alpha, found.dropout) == (lora.r, lora.alpha, lora.dropout)
        assert [target.removeprefix("*.") for target in found.targets] == list(lora.targets)


def test_a_setting_that_is_left_out_is_not_in_the_config(tmp_path):
    spec, _ = read("llama-3.1-8b")
    for name, word in (("nemo", "clip_grad_norm"), ("axolotl", "max_grad_norm: 1.0")):
        asked = (registry.parse(name), place(tmp_path), spec, "meta-llama/Llama-3.1-8B", Layout(tp=2))
        assert word in written(*asked, Settings())
        assert word not in written(*asked, Settings(clip=None))


def test_nemo_is_spelled_as_the_installed_sources_read_it(tmp_path):
    spec, _ = read("llama-3.1-8b")
    asked = (registry.parse("nemo@0.7.0"), spec, "meta-llama/Llama-3.1-8B", Layout(tp=2), Settings())
    new = written(asked[0], place(tmp_path / "new", "components/distributed/config.py"), *asked[1:])
    old = written(asked[0], place(tmp_path / "old"), *asked[1:])
    assert "strategy: fsdp2" in new
    assert "strategy" not in old
    assert "_target_: nemo_automodel.components.distributed.fsdp2.FSDP2Manager" in old


def test_a_version_that_reads_no_key_for_clipping_gets_none(tmp_path):
    old, new = place(tmp_path / "old", "recipes/llm/train_ft.py"), place(tmp_path / "new", "recipes/llm/train_ft.py")
    (tmp_path / "new/nemo_automodel/recipes/llm/train_ft.py").write_text('cfg.get("clip_grad_norm.max_norm", None)')
    want = wanted(Asked("llama-3.1-8b", 8))
    settings, why = trial.first(registry.parse("nemo"), old, want)
    assert settings.clip is None
    assert "reads no clip_grad_norm" in why["clip"]
    assert trial.first(registry.parse("nemo"), new, want) == (Settings(), {})


def test_a_name_that_yaml_would_misread_is_quoted(tmp_path):
    spec, _ = read("llama-3.1-8b")
    asked = (registry.parse("axolotl"), place(tmp_path), spec, "./my: model", Layout(tp=2), Settings())
    assert 'base_model: "./my: model"' in written(*asked)


def test_a_model_that_is_written_into_a_recipe_cannot_be_named_by_another(tmp_path):
    file = tmp_path / "inline.yaml"
    file.write_text("model:\n  _target_: x.from_config\n  config:\n    model_type: llama\n    hidden_size: 8\n")
    with pytest.raises(UserError, match=r"save it as config\.json"):
        wanted(Asked(str(file), 8))


def test_what_a_training_yaml_asks_for_is_taken_over(tmp_path):
    file = tmp_path / "my.yml"
    file.write_text(
        "base_model: Qwen/Qwen3-8B\ntensor_parallel_size: 4\nadapter: lora\nlora_r: 4\nlora_alpha: 8\n"
        "lora_target_modules: [q_proj]\n"
    )
    want = wanted(Asked(str(file), 8))
    assert (want.reference, want.tp, want.lora) == ("Qwen/Qwen3-8B", 4, Lora(4, 8, ("q_proj",)))


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.EQUAL])
def test_one_way_that_is_not_equal_puts_a_candidate_behind(verdict):
    good = candidate("b", EQUAL, left_out={"clip": "clip is crashed"}, sharded_fraction=0.1)
    bad = candidate("a", [Verdict.EQUAL, Verdict.EQUAL, verdict])
    assert not bad.equal
    assert rank.ranked([bad, good]) == [good, bad]


def test_a_way_that_was_not_proved_is_not_equal():
    assert not candidate("a", EQUAL[:2]).equal
    assert not Candidate("a", {}, {}).equal
    assert candidate("a", EQUAL).equal


def test_equal_candidates_stand_by_the_stated_rule():
    first = candidate("first", EQUAL)
    less = candidate("less", EQUAL, sharded_fraction=0.8)
    costly = candidate("costly", EQUAL, costs=["gathers"])
    without = candidate("without", EQUAL, left_out={"clip": "clip is crashed"})
    assert rank.ranked([without, less, costly, first]) == [first, costly, less, without]
    assert "compare sees more extra costs" in rank.words(costly, first)
    assert "that shards 90.0%" in rank.words(less, first)
    assert "without clip: clip is crashed" in rank.words(without, first)


def recommendation(**changes):
    winner = candidate("nemo@9.9.9", EQUAL, standing=Standing.RECOMMENDED, reason="equal in all 3 ways")
    wrong = candidate("axolotl@9.9.9", [Verdict.DIFFERENT], reason="plain is different", mends=["sum the gradients"])
    line = TrailLine("a.py", 1, "f", "f()")
    wrong.cases[0].diagnosis = [Diagnosis(Cause.MISSING_SUM, "norm", ["w"], "2", "no sum", True, [line])]
    return Recommendation(**{
        "model": "m", "source": "here", "world": 8, "asked": {"lora": None}, "candidates": [winner, wrong],
        "winner": winner.framework, "config": "a: 1\n", "rules": ["a rule"], "command": "tpscope recommend m", **changes
    })  # fmt: skip


def shown(result, width):
    console = Console(width=width, record=True, color_system=None)
    with console.capture() as caught:
        page.show(result, console)
    return caught.get()


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_page_fits_and_leads_with_the_answer(width):
    text = shown(recommendation(), width)
    assert text.startswith("RECOMMENDED  nemo@9.9.9  tp=2, dp_shard=4")
    assert max(map(len, text.splitlines())) <= min(width, 100)
    assert "plain is different" in text
    assert "a: 1" in text


def test_the_page_says_first_that_nothing_is_recommended():
    wrong = candidate("axolotl@9.9.9", [Verdict.DIFFERENT], reason="plain is different")
    bad = recommendation(candidates=[wrong], winner=None, config="", nearest="axolotl@9.9.9", mends=["sum them"])
    text = shown(bad, 100)
    assert bad.bad
    assert text.startswith("NOTHING IS RECOMMENDED")
    assert "do        sum them" in text
    assert "RECOMMENDED  " not in text


def test_the_document_fits_its_schema_and_says_what_is_not_measured():
    tree = json.loads(document.document(recommendation()))
    jsonschema.validate(tree, json.loads(Path("docs/schema/recommend.json").read_text()))
    assert tree["schema"] == "tpscope.recommend/1"
    assert {item["memory"] for item in tree["candidates"]} == {UNMEASURED} == {"not measured yet (price)"}


def test_changes_name_what_is_missing_and_what_lets_others_in():
    spec, _ = read("llama-3.1-8b")
    said = rank.changes(recommendation().candidates, spec, 8)
    assert any("not measured yet (price)" in line and "4, 8 (--tp)" in line for line in said)
    assert any("axolotl@9.9.9" in line and "sum the gradients" in line for line in said)


def tried(monkeypatch, tmp_path, came, framework="axolotl"):
    """The layouts and settings that are tried where `came` maps them to verdicts, and the candidates."""
    seen = []

    def one(self, target, layout, settings, left_out, worlds):
        seen.append((str(layout), settings.accumulation, settings.clip))
        item = candidate(target.id, came(layout, settings), left_out=dict(left_out))
        return item

    where = place(tmp_path, "recipes/llm/train_ft.py")
    (tmp_path / "nemo_automodel/recipes/llm/train_ft.py").write_text('cfg.get("clip_grad_norm.max_norm")')
    monkeypatch.setattr(trial.Trials, "_one", one)
    monkeypatch.setattr(trial.Trials, "place", lambda self, target: where)
    want = wanted(Asked("llama-3.1-8b", 8))
    trials = trial.Trials(want, False, None, tmp_path, lambda kind, text: None)
    return seen, list(trials.of(registry.parse(framework), layouts(want, 8)))


def test_a_setting_that_nobody_asked_for_is_left_out_where_it_is_not_equal(monkeypatch, tmp_path):
    def came(layout, settings):
        return [Verdict.EQUAL, Verdict.CRASHED] if settings.clip else EQUAL

    seen, found = tried(monkeypatch, tmp_path, came)
    assert seen == [("dp_shard=4, tp=2", 2, 1.0), ("dp_shard=4, tp=2", 2, None)]
    assert [(item.equal, list(item.left_out)) for item in found] == [(False, []), (True, ["clip"])]
    seen, _ = tried(monkeypatch, tmp_path, came, "nemo")  # clips at 1.0 where its config says nothing
    assert {clip for *_, clip in seen} == {1.0}


def test_another_layout_is_tried_where_fsdp_is_what_fails_and_not_where_plain_does(monkeypatch, tmp_path):
    seen, found = tried(monkeypatch, tmp_path, lambda layout, settings: [*EQUAL[:2], Verdict.DIFFERENT])
    assert [layout for layout, *_ in seen] == ["dp_shard=4, tp=2", "tp=8"]
    assert not any(item.equal for item in found)
    seen, _ = tried(monkeypatch, tmp_path, lambda layout, settings: [Verdict.DIFFERENT])
    assert [layout for layout, *_ in seen] == ["dp_shard=4, tp=2"]


def test_a_proof_that_is_interrupted_ends_the_recommendation(monkeypatch, tmp_path):
    """And is no answer: nothing is recommended from half of the proofs."""
    want = wanted(Asked("llama-3.1-8b", 2))
    trials = trial.Trials(want, False, None, tmp_path, lambda kind, text: None)
    asked = (registry.parse("nemo@0.7.0"), want.spec, parse("plain"), 2, None)
    monkeypatch.setattr(trial.prove, "run", lambda *arguments: Proofs([], [], 1))
    with pytest.raises(KeyboardInterrupt):
        trials.proof(*asked)
    case = ProofAnswer("nemo@0.7.0", "m", "plain", 2, Verdict.EQUAL)
    monkeypatch.setattr(trial.prove, "run", lambda *arguments: Proofs([case], [], 0))
    assert trials.proof(*asked) is case
