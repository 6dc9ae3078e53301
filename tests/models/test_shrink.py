"""A shrunk config has the structure of the published one, and runs."""

import copy
import json
import tempfile
from math import gcd
from pathlib import Path

import pytest

from tpscope.models import catalog
from tpscope.models.shrink import shrink

CONFIGS = Path(__file__).parents[1] / "configs"
LOCAL = ("biased-llama", "gpt2-small-test", "kv1-llama", "odd-heads-llama", "odd-vocab-llama", "tiny-qwen3")
PUBLISHED = {name: catalog.entry(name).config for name in catalog.names()}
ALL = PUBLISHED | {name: json.loads((CONFIGS / name / "config.json").read_text()) for name in LOCAL}
PARAMETER_LIMIT = 60_000_000

every_model = pytest.mark.parametrize("name", ALL)
published_model = pytest.mark.parametrize("name", PUBLISHED)


def small(name):
    return shrink(ALL[name]).config


@every_model
def test_head_counts_stay(name):
    before, after = ALL[name], small(name)
    for key in ("num_attention_heads", "num_key_value_heads", "n_head", "mamba_n_heads", "mamba_n_groups"):
        assert after.get(key) == before.get(key)


@every_model
def test_what_64_and_its_divisors_divide_stays(name):
    before, after = ALL[name], small(name)
    for key in ("intermediate_size", "moe_intermediate_size", "vocab_size"):
        if before.get(key):
            assert gcd(after[key], 64) == gcd(before[key], 64), key
    heads = before.get("num_attention_heads", before.get("n_head"))
    hidden = after.get("hidden_size", after.get("n_embd"))
    head_dim = after.get("head_dim")
    if head_dim and hidden != heads * head_dim:
        assert gcd(hidden, 64) == gcd(before["hidden_size"], 64)


@published_model
def test_a_tied_hidden_size_stays_tied_and_an_untied_one_untied(name):
    before, after = PUBLISHED[name], small(name)
    if "kv_lora_rank" in before:
        assert after["hidden_size"] not in (
            after["num_attention_heads"] * after["v_head_dim"],
            after["num_attention_heads"] * (after["qk_nope_head_dim"] + after["qk_rope_head_dim"]),
        )
        return
    heads = before["num_attention_heads"]
    old_head_dim = before.get("head_dim", before["hidden_size"] // heads)
    new_head_dim = after.get("head_dim", after["hidden_size"] // heads)
    assert new_head_dim in (8, 20)
    assert (before["hidden_size"] == heads * old_head_dim) == (after["hidden_size"] == heads * new_head_dim)


@published_model
def test_widths_are_distinct(name):
    after = small(name)
    heads, kv = after["num_attention_heads"], after["num_key_value_heads"]
    head_dim = after.get("head_dim", after["hidden_size"] // heads)
    widths = [
        after[key]
        for key in ("hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size")
        if key in after
    ]
    assert len(set(widths)) == len(widths)
    assert kv * head_dim not in widths or kv == heads
    assert not {64, 128} & set(widths[1:])


@published_model
def test_the_vocabulary_is_small_and_holds_the_special_tokens(name):
    after = small(name)
    assert 300 <= after["vocab_size"] <= 700
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        value = after[key]
        assert value is None or all(token < 3 for token in (value if isinstance(value, list) else [value]))


@every_model
def test_shrinking_twice_changes_nothing_more(name):
    assert shrink(small(name)).changed == {}


@every_model
def test_the_published_config_is_not_touched_and_the_changes_tell_all(name):
    before = copy.deepcopy(ALL[name])
    result = shrink(ALL[name])
    assert ALL[name] == before
    for key, (old, new) in result.changed.items():
        source, target = before, result.config
        for part in key.split("."):
            source, target = (source or {}).get(part), (target or {}).get(part)
        assert (source, target) == (old, new)
    untouched = {key for key in before if not any(changed.split(".")[0] == key for changed in result.changed)}
    assert all(result.config[key] == before[key] for key in untouched)


@published_model
def test_numbers_are_fp32_and_unquantized(name):
    after = small(name)
    assert "quantization_config" not in after
    assert after["use_cache"] is False
    assert after.get("torch_dtype", "float32") == after.get("dtype", "float32") == "float32"


def test_every_kind_of_layer_is_kept():
    assert small("gemma-3-27b")["layer_types"] == ["sliding_attention", "full_attention"]
    assert small("gpt-oss-20b")["layer_types"] == ["sliding_attention", "full_attention"]
    assert small("gemma-3-1b")["sliding_window_pattern"] == 2
    assert (small("smollm3-3b")["no_rope_layers"], small("smollm3-3b")["no_rope_layer_interval"]) == ([1, 0], 2)
    assert (small("deepseek-v3")["first_k_dense_replace"], small("deepseek-v3")["num_hidden_layers"]) == (1, 2)


def test_up_to_four_layers_where_there_are_more_kinds():
    layers = ["mamba", "mamba", "attention", "moe"] * 4 + ["conv", "norm"]
    after = shrink({"hidden_size": 256, "num_hidden_layers": 18, "layer_types": layers}).config
    assert after["layer_types"] == ["mamba", "attention", "moe", "conv"]
    assert after["num_hidden_layers"] == 4
    after = shrink({"num_hidden_layers": 52, "hybrid_override_pattern": "M-M-M-M*-" * 5 + "M-M-M-M"}).config
    assert (after["hybrid_override_pattern"], after["num_hidden_layers"]) == ("M-*", 3)


def test_lists_of_layer_numbers_follow_the_layers():
    config = {"num_hidden_layers": 32, "attn_layer_indices": [9, 18, 27], "mlp_only_layers": [0]}
    after = shrink(config).config
    assert (after["num_hidden_layers"], after["attn_layer_indices"], after["mlp_only_layers"]) == (3, [2], [0])


def test_experts_keep_a_choice():
    deepseek = small("deepseek-v3")
    assert (deepseek["n_routed_experts"], deepseek["n_group"], deepseek["topk_group"]) == (16, 8, 4)
    assert deepseek["num_experts_per_tok"] == 4
    assert (small("mixtral-8x7b")["num_local_experts"], small("mixtral-8x7b")["num_experts_per_tok"]) == (8, 2)
    assert small("qwen3-30b-a3b")["num_experts"] == 16
    after = shrink({"num_experts": 60, "num_experts_per_tok": 4, "n_group": 1, "topk_group": 1}).config
    assert (after["num_experts"], after["num_experts_per_tok"]) == (12, 4)


def test_the_rotated_part_of_a_head_is_even():
    assert small("phi-2")["hidden_size"] == 32 * 20
    assert small("glm-4-9b")["head_dim"] == 8


def test_rope_scaling_follows_the_positions():
    deepseek = small("deepseek-v3")
    scaling = deepseek["rope_scaling"]
    # YaRN's ramp follows from the published lengths: shortened it would be empty, and NeMo's gpt-oss would raise.
    assert (scaling["original_max_position_embeddings"], scaling["factor"]) == (4096, 40)
    assert deepseek["max_position_embeddings"] == 163840
    published = {
        "hidden_size": 3072, "num_attention_heads": 32, "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": list(map(float, range(48)))},
    }  # fmt: skip
    after = shrink(published).config
    assert after["rope_scaling"]["long_factor"] == [0.0, 12.0, 24.0, 36.0]
    assert after["original_max_position_embeddings"] == 32
    assert shrink({**published, "rope_scaling": {"mrope_section": [16, 24, 24]}}).config["rope_scaling"] == {
        "mrope_section": [2, 1, 1]
    }


def test_state_space_sizes_are_consistent():
    after = small("falcon-h1-7b")
    assert after["mamba_d_ssm"] == after["mamba_n_heads"] * after["mamba_d_head"]
    hybrid = {
        "hidden_size": 4096, "num_attention_heads": 32, "mamba_n_heads": 128, "mamba_d_head": 64, "mamba_expand": 2,
        "intermediate_size": 14336,
    }  # fmt: skip
    after = shrink(hybrid).config
    assert after["mamba_expand"] * after["hidden_size"] == after["mamba_n_heads"] * after["mamba_d_head"]


def test_nested_configs_are_shrunk_and_linked():
    vision = {
        "hidden_size": 1280,
        "num_heads": 16,
        "depth": 32,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [7, 15],
    }
    config = {
        "model_type": "some_vl",
        "text_config": ALL["qwen2.5-7b"],
        "vision_config": vision,
        "image_token_id": 151655,
    }
    after = shrink(config).config
    assert after["text_config"] == small("qwen2.5-7b")
    assert after["vision_config"]["out_hidden_size"] == after["text_config"]["hidden_size"]
    assert (after["vision_config"]["depth"], after["vision_config"]["num_heads"]) == (2, 16)
    assert "text_config.num_hidden_layers" in shrink(config).changed


def test_unknown_keys_and_multipliers_stay():
    config = {**ALL["granite-3-8b"], "our_own_key": {"width": 4096}}
    after = shrink(config).config
    for key in ("our_own_key", "embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"):
        assert after[key] == config[key]


@pytest.mark.parametrize("value", [None, "x", [], [1], {}, {"a": 1}, 0, -1, 1.5, True, 10**9])
@pytest.mark.parametrize("name", ["deepseek-v3", "falcon-h1-7b", "gemma-3-27b"])
def test_a_config_with_odd_values_is_shrunk_without_a_crash(name, value):
    for key in (*ALL[name], "rope_scaling", "layer_types", "per_layer_config", "text_config", "partial_rotary_factor"):
        shrink({**ALL[name], key: value})


@every_model
def test_the_small_model_runs_forward_and_backward(name):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(small(name)))
        config = AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    assert type(model).__name__ == ALL[name]["architectures"][0]
    assert sum(parameter.numel() for parameter in model.parameters()) < PARAMETER_LIMIT
    ids = torch.randint(3, 250, (2, 64))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert torch.isfinite(loss)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name
