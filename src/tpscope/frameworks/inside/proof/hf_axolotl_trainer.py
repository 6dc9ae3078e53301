"""The Trainer that Axolotl builds, run and saved by the functions of `axolotl.train`."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from tpscope.frameworks.inside.proof import hf_trainer
from tpscope.frameworks.inside.proof.driver import Training
from tpscope.frameworks.inside.proof.hf_axolotl import Run, tokenizer


class NoPictures:
    """In the place of a processor of pictures that needs torchvision, which is published for CUDA builds of torch."""


def imported() -> ModuleType:
    """`axolotl.train`, with the builder that `setup_trainer` uses imported as well."""
    pictures = importlib.import_module("transformers.models.smolvlm")
    try:
        pictures.SmolVLMProcessor  # noqa: B018 - asking for the name imports it
    except ModuleNotFoundError:
        pictures.SmolVLMProcessor = NoPictures  # type: ignore[attr-defined]
    importlib.import_module("axolotl.core.builders")
    return importlib.import_module("axolotl.train")


def build(run: Run, model: nn.Module, training: Training | None, dataset: Any = None) -> Any:
    """What `axolotl.utils.trainer.setup_trainer` returns for a causal model, but for the data and the device."""
    builder_class = importlib.import_module("axolotl.core.builders").HFCausalTrainerBuilder

    class Builder(builder_class):  # type: ignore[misc, valid-type]
        """The builder, with the machine's arguments added where its own hook allows it."""

        def hook_pre_create_training_args(self, training_arguments_kwargs: dict[str, Any]) -> dict[str, Any]:
            given = super().hook_pre_create_training_args(training_arguments_kwargs)
            return given | {"use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False}

        def _get_trainer_cls(self) -> type:
            found = super()._get_trainer_cls()
            return found if training is None else hf_trainer.watched(found, training)

    hf_trainer.fresh(run.work)
    importlib.import_module("axolotl.utils.distributed").distributed_state = None
    run.work.shim("the state that Axolotl's distributed helpers keep is None, as in a new process")
    if importlib.import_module("transformers.models.smolvlm").SmolVLMProcessor is NoPictures:
        run.work.shim("SmolVLMProcessor is an empty class: it needs torchvision, and rows of tokens have no pictures")
    builder = Builder(run.cfg, model, tokenizer())
    builder.train_dataset = dataset if training is None else hf_trainer.Feed(training)
    return builder.build(run.cfg.max_steps or 1)


def train(run: Run, model: nn.Module, training: Training) -> Any:
    """`execute_training` of the built trainer. Returns the trainer."""
    axolotl_train = imported()
    with run.active(), hf_trainer.compiling(run.work):
        trainer = build(run, model, training)
        axolotl_train.execute_training(run.cfg, trainer, None)
    run.work.exercised.append("HFCausalTrainerBuilder, AxolotlTrainer, axolotl.train.execute_training, accelerate")
    return trainer


def save(run: Run, model: nn.Module, trainer: Any, folder: Path) -> Path:
    """`save_trained_model`."""
    axolotl_train = imported()
    with run.active():
        owner = trainer if trainer is not None and trainer.model is model else build(run, model, None)
        run.cfg.output_dir = str(folder)
        saving = axolotl_train.save_trained_model
        # Older versions are told the format of their configuration beside it.
        if "safe_serialization" in inspect.signature(saving).parameters:
            saving(run.cfg, owner, model, run.cfg.save_safetensors is True)
        else:
            saving(run.cfg, owner, model)
    run.work.exercised.append("axolotl.train.save_trained_model")
    return folder


def batches(run: Run, model: nn.Module, samples: int) -> list[list[int]]:
    """Rows that the built trainer's data loader yields, by their index."""
    imported()
    from datasets import Dataset

    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in hf_trainer.rows(samples)]
    with run.active():
        return hf_trainer.batches(run.work, build(run, model, None, Dataset.from_list(rows)))
