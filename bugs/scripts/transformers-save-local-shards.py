"""save_pretrained writes one rank's shard of every module whose name has a digit (fc1, dense_h_to_4h).

torchrun --nproc-per-node 2 transformers-save-local-shards.py   (CPU, gloo; needs torch, transformers, accelerate)
Exit code 1: the bug is there. 0: it is not.
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

CONFIG = AutoConfig.for_model(
    "phi", vocab_size=96, hidden_size=64, intermediate_size=80, num_hidden_layers=1, num_attention_heads=4,
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
sharded = load(folder, True)
sharded.save_pretrained(folder + "/saved")
dist.barrier()
saved = {key: value for file in Path(folder, "saved").glob("*.safetensors") for key, value in load_file(file).items()}
whole = load(folder, False).state_dict()
wrong = [(name, tuple(value.shape), tuple(saved[name].shape)) for name, value in whole.items()
         if saved[name].shape != value.shape]  # fmt: skip
for name, shape, found in wrong:
    print(f"rank {dist.get_rank()}: {name} is {shape}, saved as {found}")
sys.exit(int(bool(wrong)))
