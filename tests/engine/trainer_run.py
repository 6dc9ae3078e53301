"""transformers' Trainer, unsharded in one process or tpscope's under torchrun; rank 0 writes what it logged."""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, TrainingArguments

OUT = Path(sys.argv[1])
RANKS = int(os.environ.get("WORLD_SIZE", "1"))
SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 301, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def data(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    every = [torch.randint(3, 300, (12,), generator=generator) for _ in range(rows)]
    return [{"input_ids": ids, "labels": ids.clone()} for ids in every]


def model(lora):
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **SIZES), dtype=torch.float32)
    if RANKS > 1:
        import tpscope
        from tpscope.language.layout import Layout

        made = tpscope.parallelize(made, tpscope.build_mesh(Layout(tp=RANKS), "cpu"))
    torch.manual_seed(1)
    if lora:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=4, target_modules="all-linear")
        made = tpscope.add_adapters(made, config) if RANKS > 1 else get_peft_model(made, config)
    return made


def run(name, lora=False, resume=None):
    if RANKS > 1:
        import tpscope

        kind = tpscope.trainer()
    else:
        kind = transformers.Trainer
    arguments = TrainingArguments(
        output_dir=str(OUT / name), per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=6,
        learning_rate=1e-3, max_grad_norm=0.2, logging_steps=1, save_steps=3, seed=3, use_cpu=True, report_to=[],
        disable_tqdm=True, per_device_eval_batch_size=4,
    )  # fmt: skip
    seen = []
    trainer = kind(
        model(lora), arguments, train_dataset=data(64, 1), eval_dataset=data(14, 2),
        compute_metrics=lambda given: seen.append(given.predictions.shape) or {},
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    logged = [[entry["loss"], entry["grad_norm"]] for entry in trainer.state.log_history if "loss" in entry]
    return {"logged": logged, "eval": trainer.evaluate()["eval_loss"], "shape": list(seen[-1])}


def main():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if RANKS > 1:
        dist.init_process_group("gloo")
    found = {"full": run("full"), "lora": run("lora", lora=True)}
    if RANKS > 1:
        found["resumed"] = run("full", resume=str(OUT / "full" / "checkpoint-3"))
        found["lora resumed"] = run("lora", lora=True, resume=str(OUT / "lora" / "checkpoint-3"))
    if RANKS == 1 or dist.get_rank() == 0:
        (OUT / f"logged-{RANKS}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
