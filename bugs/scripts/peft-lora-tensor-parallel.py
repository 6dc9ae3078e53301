"""LoRA on a tensor-parallel model: adapters are sized and reduced as if the model were not sharded.

torchrun --nproc-per-node 2 peft-lora-tensor-parallel.py   (CPU, gloo; needs torch, transformers, accelerate, peft)
Exit code 1: the bug is there. 0: it is not.
"""

import sys
import tempfile

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

CONFIG = AutoConfig.for_model(
    "llama", vocab_size=96, hidden_size=64, intermediate_size=80, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, head_dim=24, pad_token_id=0, tie_word_embeddings=False, max_position_embeddings=64,
)  # fmt: skip


def checkpoint() -> str:
    """A folder with a random model that all ranks see."""
    name = [tempfile.mkdtemp()]
    dist.broadcast_object_list(name)
    if dist.get_rank() == 0:
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(CONFIG).double()
        for parameter in made.parameters():
            torch.nn.init.uniform_(parameter, -0.2, 0.2)
        made.save_pretrained(name[0])
    dist.barrier()
    return name[0]


def load(folder: str, sharded: bool) -> torch.nn.Module:
    """The model whole, or sharded by transformers' own plan in the way that its version offers."""
    options = {}
    if sharded and hasattr(PreTrainedModel, "maybe_distribute_model"):
        from transformers.distributed import DistributedConfig

        options = {"distributed_config": DistributedConfig(tp_size=dist.get_world_size())}
    elif sharded:
        options = {"tp_plan": "auto", "tp_size": dist.get_world_size()}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager", **options)


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, gathered if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def batch(seed: int) -> dict[str, torch.Tensor]:
    """The same tokens on every rank."""
    ids = torch.randint(3, CONFIG.vocab_size, (2, 16), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids}


dist.init_process_group("gloo")
folder = checkpoint()
whole, sharded = load(folder, False), load(folder, True)
lora = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False}
whole = get_peft_model(whole, LoraConfig(**lora), autocast_adapter_dtype=False)
sharded = get_peft_model(sharded, LoraConfig(**lora), autocast_adapter_dtype=False)
parameters, generator = dict(sharded.named_parameters()), torch.Generator().manual_seed(3)
adapters = [(name, parameter) for name, parameter in whole.named_parameters() if "lora_" in name]
for name, parameter in adapters:  # the same adapter for both, cut as PEFT sized it
    value = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1
    parameter.data.copy_(value)
    other = parameters[name]
    if isinstance(other, DTensor):
        other.data.copy_(distribute_tensor(value, other.device_mesh, other.placements))
    else:
        for dim, size in enumerate(other.shape):
            value = value if value.shape[dim] == size else value.chunk(dist.get_world_size(), dim)[dist.get_rank()]
        other.data.copy_(value)
try:
    reference, output = whole(**batch(0)), sharded(**batch(0))
except RuntimeError as error:
    print(f"rank {dist.get_rank()}: the sharded model raises: {error}")
    sys.exit(1)
error = (full(output.logits) - reference.logits).norm() / reference.logits.norm()
print(f"rank {dist.get_rank()}: logits are off by {error:.2f}")
reference.loss.backward()
output.loss.backward()
found = bool(error > 1e-6)
for name, parameter in adapters:
    gradient = full(parameters[name].grad)
    for dim, size in enumerate(parameter.shape):  # gather what PEFT sized as a shard
        if gradient.shape[dim] != size:
            parts = [torch.empty_like(gradient) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, gradient.contiguous())
            gradient = torch.cat(parts, dim)
    error = (gradient - parameter.grad).norm() / parameter.grad.norm()
    if error > 1e-6:
        found = True
        print(f"rank {dist.get_rank()}: gradient of {name} is off by {error:.2f}")
sys.exit(int(found))
