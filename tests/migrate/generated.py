"""Random configs of both frameworks from a seed: what the property tests run on."""

import random

AXOLOTL = {
    "base_model": ["meta-llama/Llama-3.1-8B", "Qwen/Qwen3-8B", "./models/own"],
    "micro_batch_size": [1, 2, 4], "gradient_accumulation_steps": [1, 2, 8],
    "learning_rate": [1e-5, 2e-4, "5e-5", 0.001],
    "optimizer": ["adamw_torch", "adamw_torch_fused", "adamw_torch_8bit", "sgd"],
    "num_epochs": [1, 2, 3], "sequence_len": [512, 2048], "seed": [0, 7, 42],
}  # fmt: skip
AXOLOTL_MAYBE = {
    "weight_decay": [0.0, 0.01, 0.1], "max_grad_norm": [0.0, 0.5, 1.0],
    "adam_beta1": [0.9], "adam_beta2": [0.95, 0.999],
    "adam_epsilon": [1e-8, "1e-7"], "lr_scheduler": ["cosine", "linear", "constant", "constant_with_warmup"],
    "warmup_steps": [0, 2, 10, 100], "max_steps": [50, 1000], "logging_steps": [1, 10], "save_steps": [10, 500],
    "save_total_limit": [1, 5], "output_dir": ["./out"], "trust_remote_code": [True, False], "wandb_project": ["ours"],
    "wandb_entity": ["team"], "wandb_name": ["one"], "wandb_mode": ["offline"], "mlflow_experiment_name": ["ours"],
    "torch_compile": [True], "torch_compile_backend": ["inductor"], "torch_compile_mode": ["default"],
    "neftune_noise_alpha": [5.0], "dataloader_num_workers": [0, 4], "dataloader_pin_memory": [True, False],
    "dataloader_prefetch_factor": [2], "dataloader_drop_last": [True], "group_by_length": [True, False],
    "gc_steps": [10], "ddp_timeout": [600, 3600], "attn_implementation": ["sdpa", "eager", "flash_attention_2"],
    "gradient_checkpointing": [True, False], "excess_length_strategy": ["truncate"],
    "train_on_inputs": [True, False],
    "chunked_cross_entropy": [True], "save_safetensors": [True, False],
    "tensor_parallel_size": [1, 2],
    "context_parallel_size": [1, 2], "bfloat16": [True], "revision_of_model": ["main"],
    "val_set_size": [0.05, 0.1, 100],
    "fp8": [True], "reinit_weights": [True], "tokenizer_config": ["our/tokenizer"],
    "sample_packing": [True, False], "pad_to_sequence_len": [True], "eval_steps": [25, 100], "eval_batch_size": [1, 4],
    "cosine_min_lr_ratio": [0.1], "saves_per_epoch": [1], "evals_per_epoch": [1], "early_stopping_patience": [3],
    "deepspeed": ["zero3.json"], "liger_rope": [True], "cut_cross_entropy": [True], "tf32": [True],
    "resume_from_checkpoint": ["old"], "auto_resume_from_checkpoints": [True], "hub_model_id": ["team/model"],
    "dataset_prepared_path": ["prepared"], "use_tensorboard": [True],
}  # fmt: skip
_LORA = {"lora_r": [8, 16], "lora_alpha": [16, 32], "lora_dropout": [0.0, 0.05],
         "lora_target_modules": [["q_proj", "v_proj"], ["o_proj"], ".*_proj"]}  # fmt: skip
_LORA_MAYBE = {"peft_use_dora": [True], "lora_mlp_kernel": [True], "load_in_4bit": [True]}


def axolotl(seed):
    """One Axolotl config."""
    draw = random.Random(seed)
    data = {key: draw.choice(values) for key, values in AXOLOTL.items()}
    data |= {key: draw.choice(values) for key, values in AXOLOTL_MAYBE.items() if draw.random() < 0.35}
    if draw.random() < 0.5:
        data["adapter"] = "lora"
        data |= {key: draw.choice(values) for key, values in _LORA.items()}
        data |= {key: draw.choice(values) for key, values in _LORA_MAYBE.items() if draw.random() < 0.25}
        # PEFT's LoRA over 4-bit weights is what Axolotl calls qlora.
        data["adapter"] = "qlora" if data.get("load_in_4bit") else "lora"
    if draw.random() < 0.4:
        data.pop("deepspeed", None)
        data |= {"fsdp_version": 2, "fsdp_config": {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}}
        data["fsdp_config"]["reshard_after_forward"] = draw.choice([True, False])
        if draw.random() < 0.5:
            data["dp_shard_size"] = 8 // (data.get("tensor_parallel_size", 1) * data.get("context_parallel_size", 1))
    if data.get("context_parallel_size") == 2 and data.get("sample_packing"):
        # Axolotl refuses any other.
        data["micro_batch_size"] = 1
    data["datasets"] = [draw.choice(_ITEMS)]
    if data.get("lr_scheduler") == "constant":
        data.pop("warmup_steps", None)
    elif data.get("lr_scheduler") == "constant_with_warmup":
        data["warmup_steps"] = 10
    elif "max_steps" not in data:
        data.setdefault("warmup_steps", 10)
    return data


_ITEMS = [
    {"path": "our/notes", "type": "alpaca"},
    {"path": "our/talks", "split": "train", "type": "chat_template"},
    {"path": "our/asks", "split": "train", "type": {"field_instruction": "q", "field_input": "", "field_output": "a",
     "format": "{instruction} ", "no_input_format": "{instruction} "}},
]  # fmt: skip
_C = "nemo_automodel.components."
NEMO = {
    "model.attn_implementation": ["sdpa", "eager", "flash_attention_2"], "model.torch_dtype": ["bfloat16"],
    "model.use_liger_kernel": [False], "model.trust_remote_code": [True, False], "model.revision": ["main"],
    "model.rope_theta": [10000.0], "distributed.strategy": ["fsdp2"], "distributed.tp_size": [1, 2],
    "distributed.cp_size": [1, 2], "distributed.activation_checkpointing": [True, False],
    "distributed.reshard_after_forward": [True, False], "clip_grad_norm.max_norm": [0.5, 1.0],
    "optimizer.betas": [[0.9, 0.95]], "optimizer.eps": [1e-8, "1e-7"], "step_scheduler.max_steps": [100],
    "step_scheduler.num_epochs": [1, 3], "step_scheduler.log_remote_every_steps": [1, 5],
    "step_scheduler.gc_every_steps": [10],
    "checkpoint.checkpoint_dir": ["runs"], "checkpoint.max_recent_checkpoints": [2],
    "checkpoint.model_save_format": ["safetensors", "torch_save"], "wandb.project": ["ours"], "wandb.name": ["one"],
    "dataloader.num_workers": [2], "dataloader.pin_memory": [True], "compile.enabled": [True, False],
    "compile.backend": ["inductor"], "neftune.noise_alpha": [5.0], "fp8.enabled": [True], "seed": [1, 42],
    "dist_env.timeout_minutes": [5, 30], "mlflow.run_name": ["one"], "dataset.seq_length": [512],
    "dataset.truncation": [True], "dataset.padding": ["max_length"], "packed_sequence.packed_sequence_size": [0, 1024],
    "packed_sequence.packing_strategy": ["neat"], "step_scheduler.val_every_steps": [10],
    "checkpoint.save_consolidated": [True], "checkpoint.restore_from": ["LATEST", "old"],
    "distributed.sequence_parallel": [True, False], "distributed.dp_replicate_size": [1, 2],
    "distributed.offload_policy._target_": ["torch.distributed.fsdp.CPUOffloadPolicy"],
    "quantization.load_in_4bit": [True], "freeze_config.freeze_embeddings": [True], "wandb.mode": ["offline"],
}  # fmt: skip


def nemo(seed):
    """One NeMo recipe."""
    draw = random.Random(seed)
    data = {
        "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
        "model": {
            "_target_": f"nemo_automodel.NeMoAutoModelForCausalLM.from_{draw.choice(['pretrained'])}",
            "pretrained_model_name_or_path": draw.choice(AXOLOTL["base_model"]),
        },
        "distributed": {"strategy": "fsdp2"},
        "step_scheduler": {"local_batch_size": draw.choice([1, 2]), "global_batch_size": draw.choice([16, 32])},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": draw.choice([1e-4, "1e-5"]), "weight_decay": 0.0},
        "loss_fn": {"_target_": f"{_C}loss.{draw.choice(_LOSSES)}"},
        "dataset": {"_target_": f"{_C}datasets.llm.chat_dataset.ChatDataset", "path_or_dataset_id": "our/talks"},
    }
    for path, values in NEMO.items():
        if draw.random() < 0.5:
            section, _, key = path.rpartition(".")
            holder = data.setdefault(section, {}) if section else data
            holder[key] = draw.choice(values)
    if draw.random() < 0.5:
        names = draw.choice([["q_proj", "v_proj"], ["*_proj"]])
        data["peft"] = {"_target_": f"{_C}_peft.lora.PeftConfig", "target_modules": names, "dim": 8, "alpha": 16}
    if draw.random() < 0.5:
        style = draw.choice(["cosine", "linear", "constant"])
        data["lr_scheduler"] = {
            "lr_decay_style": style,
            "lr_warmup_steps": draw.choice([0, 10]),
            "min_lr": 0.0,
            "init_lr": 0.0,
        }
    if draw.random() < 0.5:
        data["step_scheduler"] |= {"ckpt_every_steps": 50, "save_checkpoint_every_epoch": False}
    return data


_LOSSES = ["masked_ce.MaskedCrossEntropy", "linear_ce.FusedLinearCrossEntropy", "chunked_ce.ChunkedCrossEntropy"]
MAKE = {"axolotl": axolotl, "nemo": nemo}
