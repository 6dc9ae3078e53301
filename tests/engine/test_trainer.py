"""transformers' Trainer on two ranks logs what it logs unsharded: losses, norms, evaluation, also after a resume."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from subjects import sharded

from tpscope.engine.mesh import build_mesh
from tpscope.engine.trainer import trainer
from tpscope.errors import UserError
from tpscope.language.layout import Layout

SCRIPT = Path(__file__).parent / "trainer_run.py"
CLOSE = 1e-5  # float32 sums in another order


def started(out, ranks):
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--standalone"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *launch, str(SCRIPT), str(out)], capture_output=True, text=True, timeout=280, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / f"logged-{ranks}.json").read_text())


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    out = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in (1, 2)}
    return {ranks: (started(folder, ranks), folder) for ranks, folder in out.items()}


@pytest.mark.parametrize(
    ("mine", "whole"), [("full", "full"), ("lora", "lora"), ("resumed", "full"), ("lora resumed", "lora")]
)
def test_losses_norms_and_evaluation_are_those_of_the_unsharded_run(logged, mine, whole):
    found, wanted = logged[2][0][mine], logged[1][0][whole]
    assert len(wanted["logged"]) == 6
    for ours, theirs in zip(found["logged"], wanted["logged"], strict=True):
        assert ours == pytest.approx(theirs, rel=CLOSE)
    assert max(norm for _, norm in wanted["logged"]) > 0.2  # clipping did something
    assert found["eval"] == pytest.approx(wanted["eval"], rel=CLOSE)
    assert found["shape"] == wanted["shape"] == [14, 12, 301]


def test_checkpoints_are_the_unsharded_runs_in_hugging_face_s_format(logged):
    for name, file in (("full", "model.safetensors"), ("lora", "adapter_model.safetensors")):
        ours, theirs = (load_file(logged[ranks][1] / name / "checkpoint-6" / file) for ranks in (2, 1))
        assert set(ours) == set(theirs)
        for key, tensor in theirs.items():
            assert (ours[key] - tensor).abs().max() < 1e-4, key


def _refused(rank, plan, layout, best):
    mesh = build_mesh(layout, "cpu")
    model = sharded("qwen3-8b", plan, group=mesh["tp"].get_group())
    with pytest.raises(UserError) as told:
        trainer()(model, SimpleNamespace(load_best_model_at_end=best))
    return str(told.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("layout", "best", "words"),
    [
        (Layout(tp=2, dp_replicate=2), False, "tp has 2 of 4 ranks, .* lay tp over all ranks"),
        (Layout(tp=2), True, "load_best_model_at_end is not supported; leave it out"),
    ],
)
def test_what_it_cannot_do_is_refused(ranks, plans, layout, best, words):
    for told in ranks(_refused, layout.world, plans("qwen3-8b", 2), layout, best):
        assert re.search(words, told)
