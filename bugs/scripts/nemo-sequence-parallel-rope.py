"""With sequence parallel, rotary embedding and mask are made for the local part of the sequence, or the whole.

torchrun --nproc-per-node 2 nemo-sequence-parallel-rope.py   (CPU, gloo; needs torch, transformers and nemo-automodel)
Exit code 1: the bug is there. 0: it is not.
"""

import inspect
import sys

import torch
import torch.distributed as dist
from nemo_automodel.components.distributed import parallelizer
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module
from transformers import AutoConfig, AutoModelForCausalLM

CONFIG = AutoConfig.for_model(
    "qwen2", vocab_size=96, hidden_size=64, intermediate_size=80, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, pad_token_id=0, tie_word_embeddings=False, max_position_embeddings=64,
)  # fmt: skip
SEQUENCE_PARALLEL = True


def model() -> torch.nn.Module:
    """The same random float64 weights on every rank and at every call, norms included."""
    made = AutoModelForCausalLM.from_config(CONFIG, attn_implementation="eager").double()
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 0.4 - 0.2)
    return made


def shard(whole: torch.nn.Module, mesh) -> torch.nn.Module:
    """What DefaultParallelizationStrategy does for tp: choose a plan, apply it, tell attention its heads."""
    names = inspect.signature(parallelizer._get_parallel_plan).parameters
    given = {"sequence_parallel": SEQUENCE_PARALLEL, "tp_size": mesh.size(), "activation_checkpointing": False}
    plan = parallelizer._get_parallel_plan(whole, **{name: given[name] for name in names if name in given})
    parallelize_module(whole, mesh, plan)
    sharded_heads = getattr(parallelizer, "_attention_is_head_sharded", lambda plan: False)
    if sharded_heads(plan):
        parallelizer._update_attention_head_counts_for_tp(whole, mesh.size())
    return whole


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, gathered if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def loss_of(made: torch.nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and logits of one batch."""
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    logits = full(made(input_ids=ids, position_ids=positions, use_cache=False).logits)
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()), logits


dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (1, dist.get_world_size()), mesh_dim_names=("dp", "tp"))
ids = torch.randint(3, CONFIG.vocab_size, (2, 16), generator=torch.Generator().manual_seed(1))
loss_of(model(), ids)
try:
    loss_of(shard(model(), mesh["tp"]), ids)
except (RuntimeError, ValueError, AssertionError) as error:
    print(f"rank {dist.get_rank()}: the unsharded model runs, the sharded one raises: {error}")
    sys.exit(1)
print("the sharded model runs")
