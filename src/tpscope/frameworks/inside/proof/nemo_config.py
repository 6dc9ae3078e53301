"""The config that NeMo's recipe is given for a case: what a user's YAML would say, as NeMo's own config node."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import Dataset

from tpscope.frameworks.inside.proof.data import BATCH, SEQUENCE
from tpscope.frameworks.inside.proof.driver import MicroBatch, Work
from tpscope.frameworks.inside.proof.hf_model import experts
from tpscope.frameworks.inside.source import source_of
from tpscope.language.layout import Layout

DISTRIBUTED = "nemo_automodel.components.distributed"
_ROWS = 1024
_PIPELINE = {"pp_schedule": "1f1b", "pp_microbatch_size": 1}


def has(module: str) -> bool:
    """True if this version has a module."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


class Rows(Dataset):  # type: ignore[type-arg]
    """A dataset of token rows as NeMo's datasets give them: lists, labels shifted. Filled when the loop starts.

    NeMo's sampler deals rows out to data ranks in turn; here a row is this rank's own, whatever its number says.
    """

    def __init__(self, ranks: int, length: int = _ROWS, tokenizer: Any = None, seq_len: int = 0):
        self.ranks = ranks
        self.length = length
        self.rows: list[dict[str, list[int]]] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        # A loader may look ahead of the last step.
        return dict(self.rows[index // self.ranks % len(self.rows)])


class Numbers(Dataset):  # type: ignore[type-arg]
    """A dataset whose rows carry their own number as tokens."""

    def __init__(self, ranks: int, length: int = _ROWS, tokenizer: Any = None, seq_len: int = 0):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        return {"input_ids": [index] * 8, "labels": [index] * 8}


def rows_of(batch: MicroBatch) -> list[dict[str, list[int]]]:
    """The samples of a micro-batch as a dataset of NeMo gives them: every label is the next token's."""
    labels = torch.cat([batch["labels"][:, 1:], torch.full_like(batch["labels"][:, :1], -100)], dim=1)
    shifted = {**batch, "labels": labels}
    return [{key: value[row].tolist() for key, value in shifted.items()} for row in range(len(labels))]


def recipe_config(work: Work, checkpoint: Path, layout: Layout, samples: int | None = None) -> dict[str, Any]:
    """The sections of a fine-tuning YAML for this case."""
    request, scenario = work.request, work.request.scenario
    restored = checkpoint if (checkpoint / "adapter_config.json").is_file() else None
    checkpoint = work.checkpoint if restored else checkpoint
    ranks = layout.dp_replicate * layout.dp_shard
    dataset = f"{__name__}.{'Rows' if samples is None else 'Numbers'}"
    config: dict[str, Any] = {
        "dist_env": {"backend": "gloo", "timeout_minutes": 1},
        "step_scheduler": {
            "local_batch_size": BATCH, "global_batch_size": BATCH * ranks * scenario.micro_batches,
            "num_epochs": 1, "max_steps": max(1, scenario.steps), "ckpt_every_steps": 1000,
        },
        "model": model_section(work, checkpoint),
        "distributed": _distributed_section(work, layout),
        "loss_fn": {"_target_": "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy", "fp32_upcast": False},
        "dataset": {
            "_target_": dataset, "ranks": ranks, "length": samples or _ROWS, "tokenizer": None, "seq_len": SEQUENCE,
        },
        "dataloader": {"shuffle": samples is not None},
        "optimizer": {
            "_target_": "torch.optim.AdamW", "lr": 1e-2, "betas": [0.9, 0.95], "eps": 1e-3, "weight_decay": 0.01,
        },
        "checkpoint": {
            "enabled": False, "checkpoint_dir": str(work.scratch / "nemo"), "model_save_format": "safetensors",
            "save_consolidated": True,
        },
    }  # fmt: skip
    if not has("nemo_automodel.recipes._typed_config"):
        # Early versions take the loader by name; later ones have one loader and refuse another.
        config["dataloader"]["_target_"] = "torchdata.stateful_dataloader.StatefulDataLoader"
        config["dataloader"]["collate_fn"] = "nemo_automodel.components.datasets.utils.default_collater"
    if restored:
        # The recipe's checkpoint folder holds `model/`, which holds the adapter.
        config["checkpoint"].update(enabled=True, restore_from=str(restored.parent))
    if scenario.clip is not None:
        config["clip_grad_norm"] = {"max_norm": 1.0}
    if scenario.compile:
        config["compile"] = {"enabled": True}
    if layout.pp > 1 and not has(f"{DISTRIBUTED}.config"):
        target = f"{DISTRIBUTED}.pipelining.autopipeline.AutoPipeline"
        config["autopipeline"] = {"_target_": target, **_PIPELINE, "dtype": torch.float64}
    if request.scenario.lora is not None:
        config["peft"] = peft_section(work)
    return config


def model_section(work: Work, checkpoint: Path) -> dict[str, Any]:
    """Which model, at float64, and how it is loaded."""
    found: dict[str, Any] = {
        "_target_": "nemo_automodel._transformers.auto_model.NeMoAutoModelForCausalLM.from_pretrained",
        "pretrained_model_name_or_path": str(checkpoint),
        "torch_dtype": "float64",
        "use_liger_kernel": False,
    }
    work.shim(
        "use_liger_kernel=False: Liger's kernels need a GPU (NeMo turns them off under tensor parallelism itself)"
    )
    auto = importlib.import_module("nemo_automodel._transformers.auto_model").NeMoAutoModelForCausalLM
    default = inspect.signature(auto.from_pretrained).parameters["attn_implementation"].default
    if default == "flash_attention_2" and not has("flash_attn"):
        found["attn_implementation"] = "sdpa"
        work.shim("attn_implementation: sdpa, where this version's default is flash_attention_2, which needs a GPU")
    if work.request.variant == "hf" or not _own_class(work.request.config):
        found |= experts(work)
    if work.request.variant == "hf":
        found["force_hf"] = True
    if work.request.remote_code is not None:
        found["trust_remote_code"] = True
    return found


def _own_class(config: dict[str, Any]) -> bool:
    """True if NeMo has a model class of its own for this config; Hugging Face's is used otherwise."""
    registry = importlib.import_module("nemo_automodel._transformers.registry").ModelRegistry
    name = next(iter(config.get("architectures") or []), "")
    has_own = getattr(registry, "has_custom_model", None)
    return bool(has_own(name)) if has_own else name in registry.model_arch_name_to_cls


def _distributed_section(work: Work, layout: Layout) -> dict[str, Any]:
    work.shim("mixed precision is off: float64 throughout")
    found: dict[str, Any] = {
        "dp_size": layout.dp_replicate * layout.dp_shard, "dp_replicate_size": layout.dp_replicate,
        "tp_size": layout.tp, "pp_size": layout.pp, "cp_size": layout.cp,
        "sequence_parallel": layout.sequence_parallel, "mp_policy": _policy(),
    }  # fmt: skip
    if work.request.scenario.checkpointing:
        found["activation_checkpointing"] = True
    if work.request.custom_plan:
        found["tp_plan" if has(f"{DISTRIBUTED}.config") else "custom_tp_plan"] = work.request.custom_plan
    if layout.pp > 1 and has(f"{DISTRIBUTED}.config"):
        found["pipeline"] = dict(_PIPELINE)
    if has(f"{DISTRIBUTED}.config"):
        fields = importlib.import_module(f"{DISTRIBUTED}.config").FSDP2Config.__dataclass_fields__
        found["strategy"] = "fsdp2"
    else:
        fields = importlib.import_module(f"{DISTRIBUTED}.fsdp2").FSDP2Manager.__dataclass_fields__
        found["_target_"] = f"{DISTRIBUTED}.fsdp2.FSDP2Manager"
    if work.request.scenario.compile and "enable_compile" in fields:
        # Under FSDP2 these versions compile by this key, and pass over the section `compile`.
        found["enable_compile"] = True
    if "backend" in fields:
        found["backend"] = "gloo"
        work.shim("backend: gloo, so that the mesh is built for the CPU instead of CUDA")
    return found


def _policy() -> Any:
    """FSDP's precision: as a YAML says it where this version reads that, else the object of a Python user."""
    readers = [Path(source_of(f"nemo_automodel.recipes.{name}")) for name in ("_dist_utils", "_dist_setup")
               if has(f"nemo_automodel.recipes.{name}")]  # fmt: skip
    if any("mp_raw" in file.read_text(encoding="utf-8") for file in readers):
        named = dict.fromkeys(("param_dtype", "reduce_dtype", "output_dtype"), "float64")
        return {"_target_": "torch.distributed.fsdp.MixedPrecisionPolicy", **named, "cast_forward_inputs": False}
    import yaml

    for dumper in (yaml.Dumper, yaml.SafeDumper):
        # NeMo writes its config into every checkpoint; an object of torch is shown there by its words.
        for kind in (MixedPrecisionPolicy, torch.dtype):
            yaml.add_representer(kind, lambda dump, value: dump.represent_str(str(value)), dumper)
    return MixedPrecisionPolicy(torch.float64, torch.float64, torch.float64, cast_forward_inputs=False)


def peft_section(work: Work) -> dict[str, Any]:
    """LoRA as a user asks for it."""
    lora = work.request.scenario.lora
    assert lora is not None
    everything = lora.targets == ("all-linear",)
    return {
        "_target_": "nemo_automodel.components._peft.lora.PeftConfig",
        "target_modules": [] if everything else [name if "*" in name else f"*.{name}" for name in lora.targets],
        "match_all_linear": everything, "dim": lora.r, "alpha": lora.alpha, "dropout": lora.dropout,
        "use_triton": False, **({"dropout_position": lora.dropout_position} if lora.dropout_position else {}),
    }  # fmt: skip


def node(config: dict[str, Any]) -> Any:
    """NeMo's own config node over plain sections."""
    return importlib.import_module("nemo_automodel.components.config.loader").ConfigNode(config)


def takes(function: Any, name: str) -> bool:
    """True if a function of this version has a parameter of that name."""
    return name in inspect.signature(function).parameters
