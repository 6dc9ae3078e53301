"""A complete fine-tune with tensor parallelism: local JSONL, full or LoRA, FSDP2 x TP, checkpoints, resume, export.

    torchrun --nproc-per-node 2 examples/finetune.py                     a tiny random model, on two CPU processes
    torchrun --nproc-per-node 8 examples/finetune.py --model FOLDER --data train.jsonl --tp 4 --dp-shard 2 --lora 16 \
        --dtype bfloat16 --batch 32 --length 2048 --lr 1e-4 --steps 1000

Rows are {"text": ...}, or {"prompt": ..., "completion": ...} of which only the completion is learned. Losses go to
OUT/losses.jsonl, checkpoints to OUT/checkpoints, the model (or PEFT adapters) to OUT/model. `--resume` goes on from the
last whole checkpoint, also in another layout.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen3Config

import tpscope
from tpscope.language.layout import Layout

IGNORED = -100
TINY = Qwen3Config(
    vocab_size=259, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=512, tie_word_embeddings=False,
)  # fmt: skip


class Bytes:
    """The tokenizer of the tiny model: bytes after three special tokens."""

    eos_token_id = 2

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        """Token ids of a text."""
        return {"input_ids": [3 + byte for byte in text.encode()]}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a folder in Hugging Face's format, or tiny")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data.jsonl")
    parser.add_argument(
        "--plan", default="auto", help="a plan that tpscope plan wrote; by default one is derived and proven"
    )
    for axis in ("tp", "dp-shard", "dp-replicate"):
        parser.add_argument(f"--{axis}", type=int, default=0 if axis == "tp" else 1, help="ranks of this axis")
    parser.add_argument("--sequence-parallel", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile every layer")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--lora", type=int, default=0, metavar="R", help="train adapters of this rank")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8, help="samples of a step, over all ranks and micro-batches")
    parser.add_argument("--micro-batches", type=int, default=1, help="backward passes of a step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sample")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=0, metavar="STEPS")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("out/finetune"))
    return parser.parse_args()


def built(options: argparse.Namespace, mesh: Any) -> tuple[torch.nn.Module, Any]:
    """The model on this rank's slices, and its tokenizer."""
    dtype = getattr(torch, options.dtype)
    settings = {"plan": options.plan, "sequence_parallel": options.sequence_parallel}
    if options.model == "tiny":
        torch.manual_seed(options.seed)
        model = AutoModelForCausalLM.from_config(TINY, dtype=dtype)
        return tpscope.parallelize(model, mesh, **settings).to(mesh.device_type), Bytes()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(options.model), dtype=dtype)
    tpscope.parallelize(model, mesh, **settings)
    tpscope.load_pretrained(model, options.model)
    has_tokenizer = any(Path(options.model).glob("tokenizer*"))
    return model, AutoTokenizer.from_pretrained(options.model) if has_tokenizer else Bytes()


def samples(file: Path, tokenizer: Any, length: int) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of every row, cut at `length`."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] if "prompt" in row else []
        text = row["completion"] if "prompt" in row else row["text"]
        learned = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        found.append(((prompt + learned)[:length], ([IGNORED] * len(prompt) + learned)[:length]))
    return found


def batches(data: list[Any], options: argparse.Namespace, step: int) -> list[dict[str, torch.Tensor]]:
    """The micro-batches of a step over all data ranks; every epoch is shuffled anew. Rows are padded to `length`."""
    chosen = []
    for number in range(step * options.batch, (step + 1) * options.batch):
        order = list(range(len(data)))
        random.Random(f"{options.seed} {number // len(data)}").shuffle(order)
        chosen.append(data[order[number % len(data)]])
    found = {
        "input_ids": torch.zeros(options.batch, options.length, dtype=torch.long),
        "labels": torch.full((options.batch, options.length), IGNORED),
        "attention_mask": torch.zeros(options.batch, options.length, dtype=torch.long),
    }
    for index, (ids, labels) in enumerate(chosen):
        found["input_ids"][index, : len(ids)] = torch.tensor(ids)
        found["labels"][index, : len(ids)] = torch.tensor(labels)
        found["attention_mask"][index, : len(ids)] = 1
    parts = [tensor.chunk(options.micro_batches) for tensor in found.values()]
    return [dict(zip(found, part, strict=True)) for part in zip(*parts, strict=True)]


def train(
    model: Any, data: list[Any], options: argparse.Namespace, mesh: Any, first: int, optimizer: Any
) -> Iterator[Any]:
    """Steps of AdamW on the mean loss over all labels of a step. Yields what is logged."""
    ranks, rank = mesh["dp"].size(), mesh["dp"].get_local_rank()
    for step in range(first, options.steps):
        begun = time.monotonic()
        parts = batches(data, options, step)
        tokens = sum(int((part["labels"][:, 1:] != IGNORED).sum()) for part in parts)
        total = torch.zeros((), device=mesh.device_type)
        for part in parts:
            mine = {name: tensor.chunk(ranks)[rank].to(mesh.device_type) for name, tensor in part.items()}
            loss = model(**mine, num_items_in_batch=torch.tensor(tokens)).loss
            (loss * ranks).backward()  # FSDP averages over data ranks; this loss is a part of a sum
            total += loss.detach()
        norm = tpscope.clip_grad_norm_(model, options.clip)
        optimizer.step()
        optimizer.zero_grad()
        dist.all_reduce(total, group=mesh["dp"].get_group())
        seconds = time.monotonic() - begun
        yield {
            "step": step + 1,
            "loss": float(total),
            "norm": float(norm),
            "tokens": tokens,
            "seconds": round(seconds, 3),
        }


def main() -> None:
    """Build, resume, train, export."""
    options = arguments()
    data_ranks = options.dp_shard * options.dp_replicate
    tp = options.tp or int(os.environ.get("WORLD_SIZE", "1")) // data_ranks
    mesh = tpscope.build_mesh(Layout(tp=tp, dp_shard=options.dp_shard, dp_replicate=options.dp_replicate))
    if options.batch % (data_ranks * options.micro_batches):
        raise SystemExit(f"--batch {options.batch} does not divide by {data_ranks} data ranks x micro-batches")
    model, tokenizer = built(options, mesh)
    if options.lora:
        from peft import LoraConfig

        model = tpscope.add_adapters(
            model, LoraConfig(r=options.lora, lora_alpha=2 * options.lora, target_modules="all-linear")
        )
    if options.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if options.compile:
        tpscope.compile_layers(model)
    tpscope.fully_shard(model, mesh)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, betas=(0.9, 0.95), weight_decay=0.0)
    first, kept = 0, options.out / "checkpoints"
    if options.resume and (last := tpscope.last_checkpoint(kept)):
        first = tpscope.load_checkpoint(last, model, optimizer)["step"]
    data = samples(options.data, tokenizer, options.length)
    leads = dist.get_rank() == 0
    options.out.mkdir(parents=True, exist_ok=True)
    model.train()
    for row in train(model, data, options, mesh, first, optimizer):
        if leads:
            print(f"step {row['step']}  loss {row['loss']:.6f}  norm {row['norm']:.4f}  {row['seconds']} s", flush=True)
            with (options.out / "losses.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if options.save_every and row["step"] % options.save_every == 0:
            tpscope.save_checkpoint(kept, row["step"], model, optimizer)
    tpscope.save_pretrained(model, options.out / "model")
    if leads and hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(options.out / "model")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
