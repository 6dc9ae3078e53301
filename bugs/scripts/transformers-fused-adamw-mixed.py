"""The Trainer's default optimizer, fused AdamW, raises on a tensor-parallel model: plain and DTensor parameters mix.

torchrun --nproc-per-node 2 transformers-fused-adamw-mixed.py   (CPU, gloo; needs torch, transformers, accelerate)
Exit code 1: the bug is there. 0: it is not.
"""

import sys
import tempfile

import torch
import torch.distributed as dist
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


def batch(seed: int) -> dict[str, torch.Tensor]:
    """The same tokens on every rank."""
    ids = torch.randint(3, CONFIG.vocab_size, (2, 16), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids}


dist.init_process_group("gloo")
folder = checkpoint()
sharded = load(folder, True).train()
# Only the function that makes the optimizer is asked: what a Trainer wants of its launcher is beside the point.
trainer = object.__new__(Trainer)
trainer.args = TrainingArguments(output_dir=tempfile.mkdtemp(), report_to=[], use_cpu=True)
trainer.model = trainer.model_wrapped = sharded
trainer.optimizer = trainer.optimizer_cls_and_kwargs = None
optimizer = trainer.create_optimizer()
sharded(**batch(0)).loss.backward()
told = f"rank {dist.get_rank()}: {type(optimizer).__name__}, fused={optimizer.defaults.get('fused')}"
try:
    optimizer.step()
except RuntimeError as error:
    print(f"{told}: raises: {error}")
    sys.exit(1)
print(f"{told}, {len(optimizer.param_groups)} groups: steps")
