"""There and back: equal up to fields that were reported as not exact, and the second time nothing changes.

60 generated configs here, 500 with TPSCOPE_SWEEP=1 (`make sweep`).
"""

import math
import os

import pytest
import yaml
from generated import MAKE

from tpscope.migrate.convert import convert, ranks_of
from tpscope.migrate.result import Verdict
from tpscope.migrate.source import number, read, stated
from tpscope.migrate.write import text_of

CASES = 250 if os.environ.get("TPSCOPE_SWEEP") else 30
BLOCKS = 5
WORLD = 8


def moved(text, folder):
    """The other framework's YAML, and the draft behind it."""
    path = folder / "config.yml"
    path.write_text(text)
    source = read(path)
    draft, unknown = convert(source, ranks_of(source, WORLD))
    return text_of(draft, source, unknown), draft, unknown, source


def same(left, right):
    """Equal as a framework reads them: numbers as numbers, to eight digits."""
    left, right = number(left), number(right)
    if isinstance(left, (int, float)) and isinstance(right, (int, float)) and not isinstance(left, bool):
        return math.isclose(left, right, rel_tol=1e-7)
    return left == right


@pytest.mark.parametrize("kind", ["axolotl", "nemo"])
@pytest.mark.parametrize("block", range(BLOCKS))
def test_there_and_back_keeps_every_field_that_is_reported_as_kept(kind, block, tmp_path):
    for seed in range(block * CASES // BLOCKS, (block + 1) * CASES // BLOCKS):
        data = MAKE[kind](seed)
        there, out, unknown, source = moved(yaml.safe_dump(data), tmp_path)
        assert not unknown, (seed, unknown)
        back, home, unknown, _ = moved(there, tmp_path)
        assert not unknown, (seed, unknown)
        returned = yaml.safe_load(back)
        # A target that itself came back at a loss is reported, on the way home.
        lost = {field.source for field in home.fields if not field.verdict.kept}
        for field in out.fields:
            if not field.source or not field.verdict.kept or field.target in lost or _implied(field, source, returned):
                continue
            before, after = stated(data, field.source), stated(returned, field.source)
            assert same(before, after), (seed, field, after)


def _implied(field, source, returned):
    """True where the field asks for nothing, or for what its framework does where it is not said."""
    if field.verdict is Verdict.EXACT and not field.target:
        return True
    value = number(source.get(field.source))
    usual = USUAL.get(source.kind, {}).get(field.source, ())
    asked = value in (None, False) or value in usual or str(value) in map(str, usual)
    bounded = field.source == "num_epochs" and source.get("max_steps")
    return (asked and stated(returned, field.source) in (None, *usual)) or bool(bounded)


# What a framework does where nothing is said: such a field need not come back.
USUAL = {
    "axolotl": {
        "lr_scheduler": ("cosine",), "max_grad_norm": (1.0,), "adam_beta1": (0.9,), "adam_beta2": (0.999,),
        "tensor_parallel_size": (1,), "context_parallel_size": (1,), "warmup_steps": (0,), "ddp_timeout": (1800,),
        "bfloat16": (True, "auto"), "tokenizer_config": (None,), "train_on_inputs": (False,),
        "fsdp_config.auto_wrap_policy": ("TRANSFORMER_BASED_WRAP",), "datasets.0.split": ("train",),
        "datasets.0.type.field_input": ("",),
    },
    "nemo": {
        "recipe": ("TrainFinetuneRecipeForNextTokenPrediction",), "distributed.tp_size": (1,),
        "distributed.cp_size": (1,),
        "compile.enabled": (False,), "lr_scheduler.init_lr": (0.0,), "seed": (42,), "dist_env.timeout_minutes": (30,),
        "optimizer._target_": ("torch.optim.AdamW",),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ["axolotl", "nemo"])
def test_the_second_time_nothing_changes(kind, tmp_path):
    for seed in range(0, CASES, 5):
        first = moved(yaml.safe_dump(MAKE[kind](seed)), tmp_path)[0]
        # What one way approximates the way back may write out: from then on it stands.
        there = moved(moved(first, tmp_path)[0], tmp_path)[0]
        again = moved(moved(there, tmp_path)[0], tmp_path)[0]
        assert yaml.safe_load(again) == yaml.safe_load(there), seed


def test_a_field_that_does_not_come_back_would_be_seen(tmp_path):
    data = MAKE["axolotl"](3) | {"seed": 11}
    there = moved(yaml.safe_dump(data), tmp_path)[0]
    back = yaml.safe_load(moved(there.replace("seed: 11", "seed: 12"), tmp_path)[0])
    assert not same(back["seed"], data["seed"])


@pytest.mark.parametrize("kind", ["axolotl", "nemo"])
def test_every_number_that_is_written_is_one_for_pyyaml(kind, tmp_path):
    for seed in range(20):
        for line in moved(yaml.safe_dump(MAKE[kind](seed)), tmp_path)[0].splitlines():
            key, colon, value = line.strip().partition(": ")
            if colon and not key.startswith("#") and _looks_like_a_number(value):
                assert isinstance(yaml.safe_load(value), (int, float)), line


def _looks_like_a_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
