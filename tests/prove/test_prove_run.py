"""A batch of proofs: cached by content, seeds tried where nothing explains, interrupted without loss."""

import json
from pathlib import Path

import pytest
import toy

import tpscope
from tpscope.errors import NoFramework, UserError
from tpscope.frameworks.world import World
from tpscope.language.proof import Cause
from tpscope.language.verdict import Verdict
from tpscope.models.read import read
from tpscope.prove import run as runs
from tpscope.prove.run import Options, matrix, run
from tpscope.prove.scenarios import parse
from tpscope.render.document import document


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """The toy stands for every framework, and answers are kept in a folder of the test's own."""
    monkeypatch.setenv("TPSCOPE_CACHE", str(tmp_path / "cache"))
    environment = toy.environment(tmp_path / "inside", monkeypatch)
    monkeypatch.setattr(runs, "environment", lambda target, say: environment)
    return environment


def cases(*names, tps=(2,), scenarios=("plain",)):
    targets = [toy.target(name) for name in names or ("toy",)]
    return matrix([read("qwen3-8b")[0]], targets, [parse(text) for text in scenarios], tps)


def does(**ranks):
    return Options(settings={"does": {rank.removeprefix("rank"): what for rank, what in ranks.items()}})


def test_cases_are_in_order_and_frameworks_side_by_side(inside):
    result = run(cases("one", "two", tps=(2, 4), scenarios=("plain", "clip")))
    told = [(case.scenario, case.tp, case.framework) for case in result.cases]
    assert told[:4] == [("plain", 2, "one@1"), ("plain", 2, "two@1"), ("plain", 4, "one@1"), ("plain", 4, "two@1")]
    assert not result.bad
    assert result.case("two@1", scenario="clip", tp=4).verdict == Verdict.EQUAL


def test_an_answer_is_kept_unless_a_process_died(inside, monkeypatch):
    asked = []
    real = World.ask
    monkeypatch.setattr(World, "ask", lambda self, request: asked.append(1) or real(self, request))
    run(cases())
    run(cases())
    assert len(asked) == 1
    run(cases(), Options(fresh=True))
    assert len(asked) == 2
    monkeypatch.setattr(runs.seeds, "may_matter", lambda answer: False)
    for _ in range(2):
        run(cases(), does(rank0="crashed: Connection closed by peer", rank1="kill"))
    assert len(asked) == 4


def test_a_verdict_that_hangs_on_the_hash_seed_says_so_first(inside):
    (case,) = run(cases(), does(rank0="seeded")).cases
    assert case.verdict == Verdict.DIFFERENT
    found = case.diagnosis[0]
    assert (found.cause, found.repaired) == (Cause.HASH_SEED, True)
    assert "equal with seed 0 on every rank" in found.sentence
    assert [entry["verdict"] for entry in case.measured["hash_seeds"]] == ["different", "equal", "different"]


def test_torch_outside_the_declared_range_is_a_caveat_of_bad_news(inside):
    inside_words = "outside the range that toy@1 declares (<=2.9.0)"
    packages = {"torch": "2.13.0+cpu"}
    options = does(rank0="seeded")
    (case,) = run(cases(), options).cases
    assert case.caveat == ""  # the toy lists no packages
    case.environment["packages"] = packages
    case.environment["outside_pin"] = runs.outside_pins(packages, inside.declared)
    assert inside_words in runs._caveat(case)
    case.verdict = Verdict.EQUAL
    assert runs._caveat(case) == ""


def test_ctrl_c_keeps_what_is_finished_and_ends_the_world(inside):
    seen = []

    def watch(case, answer):
        seen.append(case.name)
        if answer is not None:
            raise KeyboardInterrupt

    result = run(cases(scenarios=("plain", "clip", "step")), watch=watch)
    assert [case.scenario for case in result.cases] == ["plain"]
    assert result.interrupted == 2
    assert len(seen) == 2


def test_more_ranks_than_run_here_are_inconclusive(inside):
    (case,) = run(cases(tps=(8,), scenarios=("fsdp",))).cases
    assert case.verdict == Verdict.INCONCLUSIVE
    assert case.sentence.startswith("16 ranks are more than the 8")


def test_a_framework_that_cannot_be_imported_is_no_answer(inside):
    with pytest.raises(NoFramework, match="no such module"):
        run(cases("broken"))
    assert run(cases("broken", "toy")).case("broken@1").error.kind == "ImportError"


def test_the_document_matches_its_schema(inside):
    jsonschema = pytest.importorskip("jsonschema")
    result = run(cases(), does(rank0="seeded"))
    tree = json.loads(document(result))
    assert tree["schema"] == "tpscope.prove/1"
    jsonschema.validate(tree, json.loads(Path("docs/schema/prove.json").read_text()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": None}, "no width under a name that is known"),
        ({"num_attention_heads": 1024, "hidden_size": 131072}, "its hidden size stays at 8192"),
    ],
)
def test_a_model_that_cannot_be_shrunk_says_which_property_stands_in_the_way(tmp_path, change, words):
    config = {**read("qwen3-8b")[0].config, **change}
    (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value}))
    with pytest.raises(UserError, match=words):
        matrix([read(str(tmp_path))[0]], [toy.target()], [parse("plain")], [2])


def test_one_rank_proves_nothing():
    with pytest.raises(UserError, match="tp is 2 or more"):
        cases(tps=(1,))


def test_the_room_is_a_function_too(inside, monkeypatch):
    from tpscope.prove import call

    monkeypatch.setattr(call, "resolve", lambda names, python: [toy.target(name) for name in names])
    result = tpscope.prove("qwen3-8b", with_="toy", scenarios=["plain", "tied"], tp=2)
    assert [case.verdict for case in result.cases] == [Verdict.EQUAL, Verdict.EQUAL]
    assert result.cases[1].shrunk["tie_word_embeddings"] == [False, True]
    assert result.to_json()["schema"] == "tpscope.prove/1"
