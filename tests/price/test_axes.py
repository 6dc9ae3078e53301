"""Data-parallel and context-parallel axes, and activations made again."""

import pytest
from ask import column

pytestmark = pytest.mark.frameworks
MODEL, NEMO, AXOLOTL = "qwen3-0.6b", "nemo@0.7.0", "axolotl@0.19.0"
TORCH_RING = "nemo@0.7.0+hf"


def kinds(found):
    return {(item.axis, item.kind) for item in found.collectives}


def test_axolotl_shards_over_data_as_its_own_fsdp2_does(pool):
    one, eight = (column(pool, MODEL, AXOLOTL, dp_shard=size) for size in (1, 8))
    assert kinds(one) == set()
    assert {("dp_shard", "all_gather"), ("dp_shard", "reduce_scatter")} <= kinds(eight)
    assert 7.5 < one.memory.by_category["weights"] / eight.memory.by_category["weights"] < 8.5
    assert "weights gathered by FSDP" in eight.memory.by_category
    assert any("fsdp2_prepare_model" in words for words in eight.assumptions)
    assert "overlapped communication" in [part.name for part in eight.time.parts]


def test_axolotls_tp_beside_data_is_refused_by_its_transformers_and_replicas_alone_are_not_traced(pool):
    both = column(pool, MODEL, AXOLOTL, tp=2, dp_shard=2)
    assert (both.status.value, "world_size" in both.error.message) == ("refused", True)
    replicas = column(pool, MODEL, AXOLOTL, dp_replicate=2)
    assert (replicas.status.value, "DistributedDataParallel" in replicas.error.message) == ("unsupported", True)


@pytest.mark.sweep
def test_a_newer_transformers_shards_over_both(pool):
    newer = column(pool, MODEL, "transformers@5.23.0", tp=2, dp_shard=2)
    assert {("tp", "all_reduce"), ("dp_shard", "all_gather"), ("dp_shard", "reduce_scatter")} <= kinds(newer)


def test_context_parallel_ranks_share_a_sequence_and_send_keys_and_values_around(pool):
    alone, two = (column(pool, MODEL, TORCH_RING, 2048, cp=size) for size in (1, 2))
    # Half the tokens, and half of the attention over all of them.
    assert two.flops == pytest.approx(alone.flops / 2, rel=0.001)
    ring = {(item.phase, item.kind): item for item in two.collectives if item.module.endswith("self_attn")}
    assert set(ring) == {("forward", "all_gather"), ("backward", "all_gather"), ("backward", "all_to_all")}
    # Keys and values of 8 heads of 128 and of 2048 tokens in bf16; their gradients of 1024 tokens in fp32, twice.
    assert ring["forward", "all_gather"].bytes == 2 * 8 * 128 * 2048 * 2
    assert ring["backward", "all_to_all"].bytes == 2 * 8 * 128 * 1024 * 4
    assert ring["backward", "all_to_all"].per_layer == 2
    assert two.time.status == "extrapolated"
    assert not [item for item in alone.collectives if item.axis == "cp"]


def test_weights_that_data_parallel_ranks_gather_are_no_logits_and_flattened_axes_have_names(pool):
    found = column(pool, "llama-3.1-8b", TORCH_RING, 512, cp=2, dp_shard=2)
    weights = [item for item in found.collectives if item.module == "lm_head" and item.kind == "all_gather"]
    assert [item.axis for item in weights] == ["dp_shard_cp"]
    assert found.head.gathered_by is None
    assert "exposed communication" not in [part.name for part in found.time.parts]


def test_nemos_own_classes_refuse_context_parallelism_without_transformer_engine(pool):
    found = column(pool, MODEL, NEMO, 2048, cp=2)
    assert (found.status.value, "requires the TE attention backend" in found.error.message) == ("refused", True)


def test_a_sequence_that_has_no_two_chunks_a_rank_and_kernels_of_a_gpu_have_no_price(pool):
    odd = column(pool, MODEL, TORCH_RING, 514, cp=2)
    assert (odd.status.value, "not divisible" in odd.error.message) == ("unsupported", True)
    ring = column(pool, MODEL, AXOLOTL, cp=2)
    assert (ring.status.value, "ring_flash_attn" in ring.error.message) == ("unsupported", True)


@pytest.mark.parametrize("framework", [NEMO, pytest.param(AXOLOTL, marks=pytest.mark.sweep)])
def test_activations_that_are_made_again_take_less_memory_and_more_arithmetic(pool, framework):
    kept, again = (column(pool, MODEL, framework, 2048, tp=2, recompute=how) for how in ("", "full"))
    assert again.memory.by_category["activations"] < 0.6 * kept.memory.by_category["activations"]
    assert 1.1 < again.flops / kept.flops < 1.34
    assert again.assumptions[1].startswith("full activation checkpointing")


def test_selective_checkpointing_lies_between_and_axolotl_has_none(pool):
    kept, some, full = (column(pool, MODEL, NEMO, 2048, tp=2, recompute=how) for how in ("", "selective", "full"))
    held = [found.memory.by_category["activations"] for found in (kept, some, full)]
    assert held[0] > held[1] > held[2]
    assert kept.flops < some.flops < full.flops
    none = column(pool, MODEL, AXOLOTL, tp=2, recompute="selective")
    assert none.status.value == "unsupported"


def test_adapters_alone_have_gradients_and_an_optimizer(pool):
    whole, lora = (column(pool, MODEL, AXOLOTL, tp=2, lora=lora) for lora in (None, "r=8,targets=all-linear"))
    assert lora.memory.by_category.get("optimizer", 0) < 0.1 * whole.memory.by_category["optimizer"]
    assert lora.flops < whole.flops
