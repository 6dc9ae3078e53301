"""Axolotl's configuration of one case, by its own validation, and the model that its own loader makes of it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside.case import Refused
from tpscope.frameworks.inside.proof.driver import Training, Work
from tpscope.frameworks.inside.proof.hf_model import experts, files_on_cpu
from tpscope.frameworks.inside.proof.hf_trainer import COMPILER
from tpscope.language.answer import Failure
from tpscope.language.layout import Layout
from tpscope.language.verdict import Status


def settings(work: Work, layout: Layout, training: Training | None = None) -> dict[str, Any]:
    """The keys of a user's YAML for this case."""
    scenario = work.request.scenario
    keys: dict[str, Any] = {
        "base_model": str(work.checkpoint), "trust_remote_code": work.request.remote_code is not None,
        "datasets": [{"path": "samples", "type": "completion"}],
        "dataset_prepared_path": str(work.scratch / "prepared"),
        "output_dir": str(work.scratch / "trainer"), "sequence_len": 24, "micro_batch_size": 2,
        "gradient_accumulation_steps": 1, "num_epochs": 1, "learning_rate": 1e-3, "optimizer": "adamw_torch",
        "lr_scheduler": "constant", "warmup_steps": 0, "bf16": False, "fp16": False, "tf32": False,
        "save_strategy": "no", "val_set_size": 0, "tensor_parallel_size": layout.tp,
    }  # fmt: skip
    if chosen := experts(work):
        keys["overrides_of_model_kwargs"] = chosen
    if layout.cp > 1:
        keys["context_parallel_size"] = layout.cp
    if layout.dp_shard > 1:
        keys |= {"dp_shard_size": layout.dp_shard, "fsdp_version": 2}
        keys["fsdp_config"] = {"reshard_after_forward": True, "state_dict_type": "FULL_STATE_DICT"}
    if scenario.lora is not None:
        keys |= _lora(work)
    if scenario.checkpointing:
        keys["gradient_checkpointing"] = True
    if scenario.compile:
        keys |= {"torch_compile": True, "torch_compile_backend": COMPILER}
    if training is not None:
        keys |= {
            "max_steps": len(training.micro_batches), "gradient_accumulation_steps": len(training.micro_batches[0]),
            "micro_batch_size": len(training.micro_batches[0][0]["input_ids"]), "learning_rate": training.lr,
            "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": training.eps, "weight_decay": training.weight_decay,
            "max_grad_norm": 0.0 if training.clip is None else training.clip,
        }  # fmt: skip
    return keys


def _lora(work: Work) -> dict[str, Any]:
    asked = work.request.scenario.lora
    assert asked is not None
    keys: dict[str, Any] = {
        "adapter": "lora", "lora_r": asked.r, "lora_alpha": asked.alpha, "lora_dropout": asked.dropout,
    }  # fmt: skip
    # Axolotl's word for PEFT's keyword.
    keys |= {"lora_target_linear": True} if asked.targets == ("all-linear",) else {
        "lora_target_modules": list(asked.targets) if len(asked.targets) > 1 else asked.targets[0]
    }  # fmt: skip
    fields = importlib.import_module("axolotl.utils.schemas.config").AxolotlInputConfig.model_fields
    kernels = [name for name in ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
               if name in fields]  # fmt: skip
    work.shim(f"{', '.join(kernels)} are false: they are Triton kernels")
    return keys | dict.fromkeys(kernels, False)


class Run:
    """A validated configuration and the environment that Axolotl sets for it; both as its command line makes them."""

    def __init__(self, work: Work, keys: dict[str, Any], alone: bool = False):
        self.work = work
        self.alone = alone
        self.environment: dict[str, str] = {"ACCELERATE_USE_CPU": "true"}
        work.shim("ACCELERATE_USE_CPU is true")
        if alone:
            work.shim("the unsharded model is loaded as by a process that nobody launched: WORLD_SIZE is 1")
            self.environment |= {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        before = dict(os.environ)
        with self.active():
            self.cfg = self._configured(keys)
            self.environment |= {name: value for name, value in os.environ.items() if before.get(name) != value}

    @contextmanager
    def active(self) -> Iterator[None]:
        """The environment of this run, for a call into Axolotl, transformers or accelerate."""
        before = dict(os.environ)
        os.environ.update(self.environment)
        build = importlib.import_module("accelerate.parallelism_config").ParallelismConfig.build_device_mesh
        owner = importlib.import_module("accelerate.parallelism_config").ParallelismConfig
        owner.build_device_mesh = lambda mine, device_type: build(mine, "cpu")
        try:
            yield
        finally:
            owner.build_device_mesh = build
            os.environ.clear()
            os.environ.update(before)

    def _configured(self, keys: dict[str, Any]) -> Any:
        from axolotl.utils.config import normalize_config, validate_config
        from axolotl.utils.dict import DictDefault
        from pydantic import ValidationError

        world = int(os.environ["WORLD_SIZE"])
        capabilities = {"bf16": False, "fp8": False, "tf32": False, "n_gpu": world, "n_node": 1,
                        "compute_capability": "sm_90"}  # fmt: skip
        torch_version = str(torch.__version__).split("+", maxsplit=1)[0]
        environment = {"torch_version": torch_version}
        try:
            cfg = validate_config(DictDefault(keys), capabilities=capabilities, env_capabilities=environment)
        except ValidationError as error:
            raise Refused(Status.REFUSED, Failure("ValidationError", str(error), "check")) from error
        self.work.shim("the validation is told of sm_90 GPUs; everything runs on the CPU with gloo")
        importlib.import_module("axolotl.utils.trainer").prepare_optim_env(cfg)
        normalize_config(cfg)
        cfg.torch_dtype = torch.float64
        cfg.device_map = None
        self.work.shim("torch_dtype is float64 and device_map the CPU: Axolotl's keys know neither")
        return cfg


def tokenizer() -> Any:
    """Three tokens: the loader asks for its length and for the ids of the ends."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def load(run: Run, checkpoint: Path) -> nn.Module:
    """`ModelLoader(cfg, tokenizer).load()`."""
    from axolotl.loaders.model import ModelLoader

    class Exact(ModelLoader):
        """The loader, but for one dtype."""

        def _convert_embedding_modules_dtype(self, *given: Any, **options: Any) -> None:
            given = tuple(torch.float64 if value is torch.float32 else value for value in given)
            options = {name: torch.float64 if value is torch.float32 else value for name, value in options.items()}
            super()._convert_embedding_modules_dtype(*given, **options)

    run.work.shim("ModelLoader casts norms and embeddings to float64 where it would to float32")
    run.work.shim("a tokenizer of three tokens: the checkpoint of a proof has none")
    run.work.shim('ParallelismConfig.build_device_mesh("cuda") is given "cpu"')
    # What was saved is loaded from its own folder.
    run.cfg.base_model = run.cfg.base_model_config = str(checkpoint)
    with run.active(), files_on_cpu(run.work):
        model, _ = Exact(run.cfg, tokenizer()).load()
    return model
