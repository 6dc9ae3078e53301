"""A compiled decoder layer drops the gradient of the tensor-parallel embedding before it; loss and logits are exact.

torchrun --nproc-per-node 2 torch-compile-drops-async-gradient.py   (CPU, gloo; needs torch, transformers and
nemo-automodel 0.4 or later)
Exit code 1: the bug is there. 0: it is not. With the argument `wait` the embedding's collective is waited for.
"""

import inspect
import sys

import torch
import torch.distributed as dist
from nemo_automodel.components.distributed import parallelizer
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module
from transformers import AutoConfig, AutoModelForCausalLM

CONFIG = AutoConfig.for_model(
    "llama", vocab_size=96, hidden_size=64, intermediate_size=80, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, pad_token_id=0, tie_word_embeddings=False, max_position_embeddings=64, head_dim=16,
)  # fmt: skip


class Wait(torch.autograd.Function):
    """The result of a collective as a plain tensor that keeps its gradient."""

    @staticmethod
    def forward(ctx, tensor):
        """Wait, and give a new tensor of the result."""
        value = tensor.wait() if isinstance(tensor, AsyncCollectiveTensor) else tensor
        return value.view_as(value)

    @staticmethod
    def backward(ctx, gradient):
        """Pass the gradient on."""
        return gradient


def model() -> torch.nn.Module:
    """The same random float64 weights on every rank and at every call."""
    made = AutoModelForCausalLM.from_config(CONFIG, attn_implementation="eager").double()
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 0.4 - 0.2)
    return made


def shard(whole: torch.nn.Module, mesh) -> torch.nn.Module:
    """What NeMo does under `enable_compile: true`: plan, FSDP2, then torch.compile of each decoder layer."""
    names = inspect.signature(parallelizer._get_parallel_plan).parameters
    given = {"sequence_parallel": False, "tp_size": mesh["tp"].size(), "activation_checkpointing": False}
    plan = parallelizer._get_parallel_plan(whole, **{name: given[name] for name in names if name in given})
    parallelize_module(whole, mesh["tp"], plan)
    if getattr(parallelizer, "_attention_is_head_sharded", lambda plan: False)(plan):
        parallelizer._update_attention_head_counts_for_tp(whole, mesh["tp"].size())
    for layer in whole.model.layers:
        fully_shard(layer, mesh=mesh["dp"])
    fully_shard(whole, mesh=mesh["dp"])
    parallelizer._apply_per_layer_compile(whole)
    return whole


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, gathered if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def loss_of(made: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The loss of one batch."""
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    logits = full(made(input_ids=ids, position_ids=positions, use_cache=False).logits)
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (1, dist.get_world_size()), mesh_dim_names=("dp", "tp"))
ids = torch.randint(3, CONFIG.vocab_size, (2, 16), generator=torch.Generator().manual_seed(1))
whole, sharded = model(), shard(model(), mesh)
if "wait" in sys.argv[1:]:
    sharded.model.embed_tokens.register_forward_hook(lambda module, given, output: Wait.apply(output))
loss, sharded_loss = loss_of(whole, ids), loss_of(sharded, ids)
loss.backward()
sharded_loss.backward()
print(f"torch {torch.__version__}: loss differs by {abs(loss - sharded_loss):.1e}")
found = False
for (name, parameter), other in zip(whole.named_parameters(), sharded.parameters(), strict=True):
    got = torch.zeros_like(parameter) if other.grad is None else full(other.grad)
    error = (got - parameter.grad).norm() / parameter.grad.norm()
    if error > 1e-5:
        found = True
        print(f"rank {dist.get_rank()}: gradient of {name} is off by {error:.2f}, its norm is {got.norm():.2f}")
sys.exit(int(found))
