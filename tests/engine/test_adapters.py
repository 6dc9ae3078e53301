"""PEFT's LoRA on a parallelized model: the same start, gradients and steps as unsharded, and PEFT's own files."""

import pytest
import torch
import torch.distributed as dist
from subjects import batch, gradients, loss, sharded, whole, wrong

from tpscope.engine.adapters import add_adapters, load_adapters
from tpscope.engine.gradients import clip_grad_norm_, finish_gradients
from tpscope.engine.held import parts
from tpscope.engine.weights import save_pretrained
from tpscope.errors import UserError

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")
KINDS = ("qwen3-8b", "phi-3-mini", "gemma-2-9b")


def lora(**changes):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **changes})


def pair(name, plan, rank, changes=None, **options):
    """The sharded and the whole model with the same adapters, B away from its zeros."""
    torch.manual_seed(3)
    model = add_adapters(sharded(name, plan, changes, **options), lora())
    torch.manual_seed(3)
    unsharded = peft.get_peft_model(whole(name, **(changes or {})), lora())
    start = wrong(model, tensors(unsharded), rank, found=tensors(model))
    generator = torch.Generator().manual_seed(5)
    kept = {}
    with torch.no_grad():
        for key, tensor in unsharded.named_parameters():
            if "lora_B" in key:
                kept[key] = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) * 0.1
                tensor.copy_(kept[key])
        for part in parts(model):
            if "lora_B" in part.name:
                from subjects import mine

                part.tensor.copy_(mine(kept[part.name], part, rank, dist.get_world_size()))
    return model, unsharded, start


def tensors(model):
    return {name: tensor.detach() for name, tensor in model.named_parameters() if tensor.requires_grad}


def _trained(rank, plan, name, changes, options):
    model, unsharded, start = pair(name, plan, rank, changes, **options)
    losses = [float(loss(one, batch(one))) for one in (model, unsharded)]
    for step in range(2):
        for one in (model, unsharded):
            loss(one, batch(one, step)).backward()
    finish_gradients(model)
    names = wrong(model, gradients(unsharded), rank)
    norms = float(clip_grad_norm_(model, 0.1)), float(torch.nn.utils.clip_grad_norm_(unsharded.parameters(), 0.1))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    return start, losses, names, norms, trained == set(tensors(unsharded))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["", "sequence parallel"])
def test_adapters_start_and_train_as_unsharded(ranks, plans, name, sequence_parallel):
    options = {"sequence_parallel": sequence_parallel}
    for start, (found, wanted), names, norms, same in ranks(_trained, 2, plans(name, 2), name, {}, options):
        assert start == []
        assert found == pytest.approx(wanted, rel=1e-6)
        assert names == []
        assert norms[0] == pytest.approx(norms[1], rel=1e-6)
        assert same


def test_adapters_beside_kv_heads_that_ranks_share(ranks, plans):
    changes = {"num_key_value_heads": 2}
    plan = plans("qwen3-8b-two-kv-heads", 4)
    for start, _, names, norms, _ in ranks(_trained, 4, plan, "qwen3-8b", changes, {}):
        assert (start, names) == ([], [])
        assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def _saved(rank, plan, folder):
    model, unsharded, _ = pair("qwen3-8b", plan, rank)
    save_pretrained(model, folder)
    again = load_adapters(sharded("qwen3-8b", plan), folder)
    back = wrong(again, tensors(unsharded), rank, found=tensors(again), close=1e-7)
    loaded = peft.PeftModel.from_pretrained(whole("qwen3-8b"), folder)
    given = batch(loaded)
    return back, float((loss(loaded, given) - loss(unsharded, given)).abs())


def test_peft_loads_what_was_saved_and_so_do_we(ranks, plans, tmp_path):
    for back, difference in ranks(_saved, 2, plans("qwen3-8b", 2), str(tmp_path / "adapters")):
        assert back == []
        assert difference < 1e-6  # PEFT writes float32
    assert (tmp_path / "adapters" / "adapter_config.json").is_file()


def _refused(rank, plan):
    found = []
    for changes in ({"use_dora": True}, {"target_modules": ["lm_head"]}, {"init_lora_weights": "pissa"}):
        model = sharded("qwen3-8b", plan)
        before = [(name, type(module)) for name, module in model.named_modules()]
        with pytest.raises(UserError, match="LoraConfig") as error:
            add_adapters(model, lora(**changes))
        found.append("\n" not in str(error.value))
        found.append(before == [(name, type(module)) for name, module in model.named_modules()])
    return found


def test_what_is_not_supported_is_one_sentence(ranks, plans):
    assert all(all(found) for found in ranks(_refused, 2, plans("qwen3-8b", 2)))
