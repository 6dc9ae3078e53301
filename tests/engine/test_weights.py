"""Weights in Hugging Face's format: a rank reads its slices, the whole model is written, and wrong files are named."""

import json

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from subjects import batch, gradients, loss, sharded, whole, wrong
from transformers import AutoModelForCausalLM

from tpscope.engine import weights
from tpscope.engine.collectives import ProcessAxis
from tpscope.engine.gradients import finish_gradients
from tpscope.engine.held import parts
from tpscope.engine.parallelize import parallelize
from tpscope.errors import UserError
from tpscope.plan import files

pytestmark = pytest.mark.filterwarnings("ignore")


def on_meta(folder, plan):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    config._experts_implementation = "eager"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    parallelize(model, ProcessAxis(), files.read(plan, "plan"), logits="deferred", sums="step")
    return model


def _loaded(rank, plan, name, changes, folder):
    if rank == 0:
        whole(name, **changes).save_pretrained(folder)
    dist.barrier()
    read = []
    original = weights._read
    weights._read = lambda *given: read.append(original(*given)) or read[-1]
    try:
        model = on_meta(folder, plan)
        weights.load_pretrained(model, folder, "cpu")
    finally:
        weights._read = original
    unsharded = whole(name, **changes)
    for one in (model, unsharded):
        loss(one, batch(one)).backward()
    finish_gradients(model)
    total = sum(p.numel() for p in unsharded.parameters())
    return wrong(model, gradients(unsharded), rank), sum(t.numel() for t in read) / total


@pytest.mark.parametrize(
    ("name", "tp", "changes", "part"),
    [
        ("qwen3-0.6b", 2, {}, 0.51),
        ("phi-3-mini", 2, {}, 0.51),
        ("gemma-2-9b", 2, {}, 0.51),
        ("qwen3-8b", 4, {"num_key_value_heads": 2}, 0.27),
        ("mixtral-8x7b", 2, {}, 0.0),  # stored expert by expert: read whole by its own class
    ],
)
def test_a_model_on_meta_reads_its_slices(ranks, plans, tmp_path, name, tp, changes, part):
    plan = plans(f"{name}-two-kv-heads" if changes else name, tp)
    for names, read in ranks(_loaded, tp, plan, name, changes, str(tmp_path / "saved")):
        assert names == []
        assert read <= part


def _saved(rank, plan, name, changes, folder):
    model = sharded(name, plan, changes)
    weights.save_pretrained(model, folder)
    weights.save_pretrained(model, folder)  # over one that is there
    return True


@pytest.mark.parametrize(
    ("name", "tp", "changes"),
    [
        ("qwen3-0.6b", 2, {"vocab_size": 301}),
        ("phi-3-mini", 2, {}),
        ("qwen3-8b", 4, {"num_key_value_heads": 2}),
        ("mixtral-8x7b", 2, {}),
        ("gpt-oss-20b", 2, {}),
    ],
)
def test_what_is_saved_loads_unsharded_tensor_by_tensor_equal(ranks, plans, tmp_path, name, tp, changes):
    folder = tmp_path / "saved"
    ranks(_saved, tp, plans(f"{name}-two-kv-heads" if tp == 4 else name, tp), name, changes, str(folder))
    model, wanted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64), whole(name, **changes)
    found = model.state_dict()
    assert found.keys() == wanted.state_dict().keys()
    for key, tensor in wanted.state_dict().items():
        assert torch.equal(found[key], tensor), key
    assert json.loads((folder / "config.json").read_text())["architectures"] == [type(wanted).__name__]
    assert not list(tmp_path.glob(".*"))


def _refused(rank, plan, folder, message):
    model = sharded("qwen3-0.6b", plan)
    before = {part.name: part.tensor.clone() for part in parts(model)}
    with pytest.raises(UserError, match=message) as error:
        weights.load_pretrained(model, folder)
    assert "\n" not in str(error.value)
    return all(torch.equal(before[part.name], part.tensor) for part in parts(model))


def test_missing_and_misshapen_tensors_are_one_sentence_and_nothing_is_loaded(ranks, plans, tmp_path):
    whole("qwen3-0.6b").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    held = load_file(file)
    norm = held.pop("model.norm.weight")
    save_file(held, file, {"format": "pt"})
    plan = plans("qwen3-0.6b", 2)
    message = r"1 of \d+ tensors of Qwen3ForCausalLM are missing, model\.norm\.weight first"
    assert ranks(_refused, 2, plan, str(tmp_path), message) == [True, True]
    save_file({**held, "model.norm.weight": norm[:-1].clone()}, file, {"format": "pt"})
    message = r"model\.norm\.weight has shape \[\d+\] where Qwen3ForCausalLM has \[\d+\]"
    assert ranks(_refused, 2, plan, str(tmp_path), message) == [True, True]
    file.write_bytes(file.read_bytes()[:1000])
    assert ranks(_refused, 2, plan, str(tmp_path), "cannot be read") == [True, True]


@pytest.mark.parametrize("name", ["qwen3-8b", "falcon-h1-7b"])
def test_buffers_that_no_checkpoint_holds_are_computed(name):
    """Falcon-H1's multipliers lie in its mixers and are computed by the model around them."""
    right = whole(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(right.config, dtype=torch.float64)
    weights._fill_buffers(model, torch.device("cpu"))
    wanted, found = dict(right.named_buffers()), dict(model.named_buffers())
    assert set(wanted) == set(found)
    for key, buffer in found.items():
        assert not buffer.is_meta
        assert torch.equal(buffer.to(wanted[key].dtype), wanted[key]), key


def test_a_buffer_that_nothing_computes_is_named():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with torch.device("meta"):
        model[0].register_buffer("table", torch.zeros(3), persistent=False)
    with pytest.raises(UserError, match=r"0\.table is on meta"):
        weights._fill_buffers(model, torch.device("cpu"))
