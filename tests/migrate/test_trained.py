"""Batch, optimizer, decay and rates of both sides, by both frameworks' own code; and what is said where they differ."""

from pathlib import Path

import pytest
from batch import NAMES, moved

from tpscope.compare.run import Pool
from tpscope.frameworks import registry
from tpscope.language.answer import Failure
from tpscope.language.layout import Layout
from tpscope.language.measured.trained import Share, Trained
from tpscope.migrate.answers import Answers, about, ask_trained, steps_of
from tpscope.migrate.checks import Side
from tpscope.migrate.convert import OTHER
from tpscope.migrate.job import Ranks
from tpscope.migrate.result import Standing
from tpscope.migrate.source import read
from tpscope.migrate.trained import compared
from tpscope.models.catalog import by_name

DATA = Path("tests/data/migrate")
# What a small Llama trains: a matrix, an embedding, a norm, and a bias that it does not have.
PARAMETERS = [
    ["model.embed_tokens.weight", 2], ["model.layers.0.self_attn.q_proj.weight", 2],
    ["model.layers.0.self_attn.q_proj.bias", 1], ["model.layers.0.input_layernorm.weight", 1],
    ["model.norm.weight", 1], ["lm_head.weight", 2],
]  # fmt: skip
WORLD = 4


@pytest.fixture(scope="module")
def pool():
    with Pool(lambda kind, text: None) as warm:
        yield warm


def sides(name):
    source = read(DATA / name)
    other = OTHER[source.kind]
    before = Side(source.kind, registry.parse(NAMES[source.kind]), source.plain, name)
    return [before, Side(other, registry.parse(NAMES[other]), moved(DATA / name, WORLD, 6400)[0], "the output")]


def checks(pair, pool):
    """Every check by name, with both frameworks asked about these parameters."""
    steps = steps_of(pair[0], Ranks(WORLD, data=WORLD), 6400)
    pool.prepare([side.target for side in pair])
    answers = [Answers(side, Layout()) for side in pair]
    for one in answers:
        ask_trained(one, by_name("llama-3.1-8b").spec(), PARAMETERS, WORLD, steps, pool)
    return {check.name: check for check in compared(answers)}


@pytest.mark.frameworks
@pytest.mark.xdist_group("migrate")
@pytest.mark.parametrize(
    "name", ["axolotl/steps-and-warmup.yml", "axolotl/cosine-floor.yml", "axolotl/decay.yml", "nemo/linear.yaml"]
)
def test_both_frameworks_build_the_same_training(name, pool):
    found = checks(sides(name), pool)
    assert {key: check.sentence for key, check in found.items() if check.standing is not Standing.OK} == {}


@pytest.mark.frameworks
@pytest.mark.xdist_group("migrate")
@pytest.mark.parametrize(
    ("section", "key", "value", "name"),
    [
        ("lr_scheduler", "init_lr", 1e-5, "learning rate"),
        ("optimizer", "betas", [0.8, 0.999], "optimizer"),
        ("optimizer", "param_group_overrides", [], "weight decay and rate of each parameter"),
        ("step_scheduler", "global_batch_size", 64, "samples per step, by both frameworks' code"),
    ],
)
def test_what_is_not_the_same_is_told(section, key, value, name, pool):
    before, after = sides("axolotl/decay.yml")
    after.data[section][key] = value
    assert checks([before, after], pool)[name].standing in (Standing.TOLD, Standing.FAILED)


def side(trained, kind):
    one = Answers(Side(kind, registry.parse(NAMES[kind]), {}, ""), Layout())
    one.trained = trained
    return one


def made(**changes):
    given = {"optimizer": "torch.optim.adamw.AdamW", "arguments": {"eps": 1e-8, "fused": True}, "samples": 8,
             "shares": {"model.norm.weight": Share(0.0), "model.layers.3.mlp.up_proj.weight": Share(0.1)},
             "rates": [0.0, 1.0, 0.5]}  # fmt: skip
    return Trained(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"optimizer": "torch.optim.adam.Adam"}, "optimizer", "another class"),
        ({"arguments": {"eps": 1e-6, "fused": True}}, "optimizer", "eps 1e-08 | 1e-06"),
        (
            {"shares": {"model.norm.weight": Share(0.1)}},
            "weight decay and rate of each parameter",
            "norm.weight 0 | 0.1",
        ),
        ({"rates": [0.0, 0.9, 0.5]}, "learning rate", "step 2 of 3: 10 % of the peak"),
        ({"samples": 16}, "samples per step, by both frameworks' code", "other samples"),
    ],
)
def test_a_difference_is_named(changes, name, words):
    same = {check.name: check for check in compared([side(made(), "axolotl"), side(made(), "nemo")])}
    assert all(check.standing is Standing.OK for check in same.values())
    found = {check.name: check for check in compared([side(made(), "axolotl"), side(made(**changes), "nemo")])}
    assert found[name].standing is not Standing.OK
    assert words in found[name].sentence


def test_another_kernel_of_the_same_optimizer_is_no_difference():
    other = made(arguments={"eps": 1e-8, "fused": None})
    (check,) = [item for item in compared([side(made(), "axolotl"), side(other, "nemo")]) if item.name == "optimizer"]
    assert check.standing is Standing.OK
    assert "fused true | None" in check.sentence


def test_what_a_framework_raises_leaves_it_unchecked():
    broken = side(None, "nemo")
    broken.error = Failure("ImportError", "no bitsandbytes", "optimizer")
    (check,) = compared([side(made(), "axolotl"), broken])
    assert check.standing is Standing.UNCHECKED
    assert "no bitsandbytes" in check.sentence


def test_of_a_file_what_says_nothing_of_the_training_is_left_out():
    data = {"learning_rate": 1e-4, "tensor_parallel_size": 2, "datasets": [], "output_dir": "x", "warmup_steps": 3}
    kept = about(Side("axolotl", registry.parse(NAMES["axolotl"]), data, ""))
    assert set(kept) == {"learning_rate", "tensor_parallel_size", "warmup_steps"}


@pytest.mark.parametrize(
    ("data", "samples", "steps"),
    [({}, None, 200), ({"max_steps": 70}, None, 70), ({"num_epochs": 2}, 320, 80), ({"max_steps": 70}, 8000, 70)],
)
def test_the_run_is_as_long_as_the_file_says(data, samples, steps):
    data = {"micro_batch_size": 2, "gradient_accumulation_steps": 1, **data}
    side = Side("axolotl", registry.parse(NAMES["axolotl"]), data, "")
    assert steps_of(side, Ranks(4, data=4), samples) == steps
