"""NeMo's own Llama of 0.2.0 (build_llama_model) cuts its fused qkv and gate/up contiguously over tp.

torchrun --nproc-per-node 2 nemo-combined-projection.py   (CPU, gloo; needs torch, transformers and nemo-automodel)
Exit code 1: the bug is there. 0: it is not.
"""

import inspect
import sys

import torch
import torch.distributed as dist
from nemo_automodel.components.distributed import parallelizer
from nemo_automodel.components.models.llama.model import LlamaForCausalLM
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module
from transformers import AutoConfig

CONFIG = AutoConfig.for_model(
    "llama", vocab_size=96, hidden_size=64, intermediate_size=80, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, pad_token_id=0, tie_word_embeddings=False, max_position_embeddings=64,
)  # fmt: skip
CONFIG._attn_implementation = "eager"
SEQUENCE_PARALLEL = False


def model() -> torch.nn.Module:
    """The same random float64 weights on every rank and at every call, norms included."""
    made = LlamaForCausalLM(CONFIG).double()
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
whole, sharded = model(), shard(model(), mesh["tp"])
(loss, logits), (sharded_loss, sharded_logits) = loss_of(whole, ids), loss_of(sharded, ids)
loss.backward()
sharded_loss.backward()
try:  # since 0.7.0 the training recipe sums or averages replicated gradients itself before it clips
    from nemo_automodel.components.distributed.tp_replicas import synchronize_tp_replica_gradients

    synchronize_tp_replica_gradients([sharded], device_mesh=mesh)
except ImportError:
    pass
error = (logits - sharded_logits).norm() / logits.norm()
print(f"loss differs by {abs(loss - sharded_loss):.1e}, logits by {error:.1e}")
found = bool(error > 1e-6)
for (name, parameter), other in zip(whole.named_parameters(), sharded.parameters(), strict=True):
    error = (full(other.grad) - parameter.grad).norm() / parameter.grad.norm()
    if error > 1e-6:
        found = True
        print(f"rank {dist.get_rank()}: gradient of {name} is off by {error:.2f}")
sys.exit(int(found))
