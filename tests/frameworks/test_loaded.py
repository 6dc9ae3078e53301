"""Compare shards a model that has no weights; here the framework's own loader loads a checkpoint of a small one, and
every parameter must be where compare puts it."""

import json
import os
import subprocess

import pytest

from tpscope.frameworks import overlay, registry
from tpscope.frameworks.runner import overlay_environment
from tpscope.models.read import read
from tpscope.models.shrink import shrink

pytestmark = pytest.mark.frameworks
LOADERS = ("axolotl@0.13.2", "axolotl@0.14.0", "axolotl@0.16.0", "axolotl@0.19.0", "transformers@5.23.0")
MODELS = ("llama-3.1-8b", "qwen3-8b", "phi-3-mini", "glm-4-9b", "qwen2.5-7b")

SCRIPT = """
import importlib, json, runpy, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
runpy.run_path(sys.argv[1] + "/__main__.py", run_name="not main")["_mount"]()
hf_engine = importlib.import_module("tpscope.frameworks.inside.hf_engine")
params = importlib.import_module("tpscope.frameworks.inside.params")
normal = importlib.import_module("tpscope.frameworks.inside.normal")
world = importlib.import_module("tpscope.frameworks.inside.world")
import torch
from transformers import AutoModelForCausalLM
found = {}
for name, config in json.loads(Path(sys.argv[2]).read_text()).items():
    folder = Path(sys.argv[3]) / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    whole = hf_engine.build(str(folder), "cpu", False)
    whole.tie_weights()
    whole.save_pretrained(folder)
    shapes = params.shapes(whole)
    world.start(2)
    model = hf_engine.build(str(folder), "meta", False)
    plan = normal.plan_of(dict(model.tp_plan or {}), model, "hf")
    asked = hf_engine.Asked(2)
    settings, mesh = hf_engine.prepare(None, type(model), asked)
    model, decided = hf_engine.apply(None, model, settings, mesh, asked)
    compared = params.rows(model, shapes, plan, decided)
    if hf_engine.engine() == "distributed-config":
        from transformers.distributed import DistributedConfig
        options = {"distributed_config": DistributedConfig(tp_size=2)}
    else:
        options = {"tp_plan": "auto", "tp_size": 2}
    loaded = AutoModelForCausalLM.from_pretrained(folder, **options)
    loaded = params.rows(loaded, shapes, plan, decided)
    found[name] = [
        {row.name: [row.placement, row.local_shape] for row in rows} for rows in (compared, loaded)
    ]
    world.stop()
print(json.dumps(found), file=sys.__stdout__)
"""


@pytest.mark.parametrize("name", LOADERS)
def test_placements_are_those_of_a_loaded_checkpoint(name, tmp_path):
    environment = overlay_environment(overlay.ensure(registry.parse(name), lambda text: None))
    configs = tmp_path / "configs.json"
    configs.write_text(json.dumps({model: shrink(read(model)[0].config).config for model in MODELS}))
    inside = os.path.join(os.path.dirname(overlay.__file__), "inside")
    done = subprocess.run(
        [str(environment.python), "-W", "ignore", "-S", "-c", SCRIPT, inside, str(configs), str(tmp_path)],
        capture_output=True, text=True, timeout=300, check=False,
        env={
            "PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(map(str, environment.path)),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(MODELS)
    for model, (compared, loaded) in found.items():
        assert any(placement != "Replicate()" for placement, _ in loaded.values()), model
        assert compared == loaded, model
