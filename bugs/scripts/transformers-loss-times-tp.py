"""Trainer multiplies the loss by all processes although tp ranks see the same batch.

torchrun --nproc-per-node 2 transformers-loss-times-tp.py   (CPU, gloo; needs torch, transformers, accelerate)
Exit code 1: the bug is there. 0: it is not.
"""

import sys
import tempfile

import torch
import torch.distributed as dist
from accelerate import ParallelismConfig
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

CONFIG = AutoConfig.for_model(
    "llama", vocab_size=96, hidden_size=64, intermediate_size=80, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, pad_token_id=0, tie_word_embeddings=False, max_position_embeddings=64,
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
# accelerate wants a GPU for a ParallelismConfig: only that check of the device is skipped here
ParallelismConfig._validate_accelerator = lambda self, accelerator: None
sharded = load(folder, True).train()
arguments = TrainingArguments(folder + "/out", use_cpu=True, report_to=[], save_strategy="no")
trainer = Trainer(model=sharded, args=arguments)
items = [batch(0)]
items[0]["labels"] = items[0]["labels"].clone()
items[0]["labels"][:, 0] = -100  # the shift leaves the first label out: now the Trainer counts what the model counts
samples, number = trainer.get_batch_samples(iter(items), 1, torch.device("cpu"))
mean = sharded(**items[0]).loss
loss = trainer.compute_loss(sharded, dict(samples[0]), num_items_in_batch=number)
factor = (loss / mean).item()
print(f"rank {dist.get_rank()}: Trainer's loss is {factor:.3f} times the model's")
sys.exit(int(abs(factor - 1) > 1e-6))
