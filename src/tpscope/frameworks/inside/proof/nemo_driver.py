"""NeMo AutoModel under proof: its recipe loads, shards and trains."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside.proof import nemo_config, nemo_recipe, nemo_scenarios, rules
from tpscope.frameworks.inside.proof.driver import Driver, MicroBatch, Training, Work
from tpscope.language.answer import TrailLine
from tpscope.language.proof import Depth


def preload() -> None:
    """Import the modules that every case uses."""
    importlib.import_module("datasets")
    nemo_recipe.module()
    importlib.import_module("nemo_automodel.components.loss.masked_ce")


class NemoDriver(Driver):
    """`TrainFinetuneRecipeForNextTokenPrediction` of the installed version: `setup()` and its training loop."""

    depth = Depth.ENTRY

    def __init__(self, work: Work):
        super().__init__(work)
        self.recipes: dict[int, Any] = {}
        self._loss: Any = None
        self._plan: dict[str, Any] = {}

    hooks = ("tp_replicas.py", "recipes/llm/train_ft.py", "training/utils.py", "parallel_styles.py")

    def rules(self, model: nn.Module, patterns: tuple[str, ...]) -> list[TrailLine]:
        """Lines of the plan that `_get_parallel_plan` selects."""
        return rules.nemo(self.work, model, patterns)

    def check(self) -> None:
        """What this machine cannot drive. The framework's own checks run in `setup`."""
        nemo_scenarios.check(self.work)

    def whole(self, checkpoint: Path) -> nn.Module:
        """The model of NeMo's own class from its public entry, in one process."""
        saved = nemo_scenarios.adapter(checkpoint)
        model = nemo_recipe.whole(self.work, self.work.checkpoint if saved else checkpoint)
        if saved:
            nemo_scenarios.load_adapter(model, checkpoint)
        return model

    def sharded(self, checkpoint: Path) -> nn.Module:
        """The model that the recipe's `setup()` made."""
        with nemo_scenarios.no_silence(self.work), nemo_scenarios.selections() as found:
            recipe = nemo_recipe.set_up(self.work, checkpoint)
        model: nn.Module = recipe.model_parts[0]
        self.recipes[id(model)] = recipe
        self._plan = found[-1] if found else {}
        return model

    def planned(self, model: nn.Module) -> dict[str, Any]:
        """The plan that `_get_parallel_plan` returned while `setup()` ran."""
        return self._plan

    def loss(self, model: nn.Module, batch: MicroBatch, tokens: int) -> tuple[torch.Tensor, Any]:
        """NeMo's `calculate_loss` with MaskedCrossEntropy, over a batch made by NeMo's collator."""
        collate = importlib.import_module("nemo_automodel.components.datasets.utils").default_collater
        loop = nemo_recipe.module()
        given = collate(nemo_config.rows_of(batch))
        labels = given.pop("labels")
        keep = getattr(loop, "filter_forward_kwargs", None)
        output = model(**(keep(model, given) if keep else given))
        logits = getattr(output, "logits", output)
        value = loop.calculate_loss(
            self._criterion(), logits=logits, labels=labels, model=model, hidden_states=None, num_label_tokens=tokens
        )
        return value, logits

    def _criterion(self) -> Any:
        if self._loss is None:
            self._loss = importlib.import_module("nemo_automodel.components.loss.masked_ce").MaskedCrossEntropy(
                fp32_upcast=False
            )
            self.work.shim("fp32_upcast=False of MaskedCrossEntropy: the loss stays in float64")
        return self._loss

    def train(self, model: nn.Module, training: Training) -> None:
        """The recipe's own `run_train_validation_loop` on the model that its `setup()` made."""
        with nemo_scenarios.on_cpu_kernels(self.work):
            nemo_recipe.run(self.work, self.recipes[id(model)], training)
        nemo_scenarios.compiled(self.work)

    def save(self, model: nn.Module, folder: Path) -> Path:
        """The checkpoint that the recipe's `save_checkpoint` writes: consolidated safetensors, or LoRA's adapter."""
        with nemo_recipe.here(self.work):
            return nemo_scenarios.save(self.recipes[id(model)], folder)

    def peers(self, samples: int) -> list[list[int]]:
        """Rows that the recipe's own loader yields on this rank."""
        loader = nemo_recipe.set_up(self.work, self.work.checkpoint, samples).dataloader
        return [[int(index) for index in batch["input_ids"][:, 0]] for batch in loader]

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Nothing surrounds a forward without context parallelism."""
        yield
