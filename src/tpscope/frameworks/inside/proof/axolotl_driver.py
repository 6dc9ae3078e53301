"""Axolotl: its validation, its parallelism configuration, its ModelLoader and adapter, its trainer, its save."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tpscope.frameworks.inside import transformers as hf
from tpscope.frameworks.inside.axolotl import _no_key, _sequence_parallel
from tpscope.frameworks.inside.proof import hf_axolotl, hf_axolotl_trainer, hf_model
from tpscope.frameworks.inside.proof.driver import Driver, MicroBatch, Training, Work
from tpscope.frameworks.inside.proof.transformers_driver import unsupported
from tpscope.frameworks.inside.trace import cite
from tpscope.language.layout import Layout
from tpscope.language.proof import Depth


def preload() -> None:
    """Import the modules that every case uses."""
    os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
    hf.preload()
    for module in ("axolotl.utils.config", "axolotl.loaders.model"):
        importlib.import_module(module)
    hf_axolotl_trainer.imported()


class AxolotlDriver(Driver):
    """The functions that `axolotl train` calls, one after the other: validation, loader, builder, loop, save."""

    depth = Depth.ENTRY
    shards_data_at_load = False

    def __init__(self, work: Work):
        super().__init__(work)
        self._trainer: Any = None
        self._made: dict[bool, hf_axolotl.Run] = {}

    def planned(self, model: nn.Module) -> dict[str, Any]:
        """The model's own plan: Axolotl has no other."""
        return hf_model.planned(model)

    def check(self) -> None:
        """Raise for what Axolotl has no key for; then its own validation and checks of the model's configuration."""
        os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
        layout = self.request.layout
        hf.know(self.work)  # type: ignore[arg-type]
        _no_key(self.work, layout)  # type: ignore[arg-type]
        if layout.sequence_parallel:
            unsupported(f"asked for and ignored: {_sequence_parallel(self.work)['what']}")  # type: ignore[arg-type]
        if layout.cp > 1:
            path, fragment = "axolotl/utils/schemas/validation.py", "import ring_flash_attn"
            line = cite(self.work.roots, path, fragment, "check_context_parallel_size")
            where = f" ({line.path}:{line.line}: {line.text})" if line else ""
            unsupported(f"needs CUDA: Axolotl's context parallelism runs on ring_flash_attn{where}", line)
        self._run(alone=False)

    def _run(self, alone: bool, training: Training | None = None) -> hf_axolotl.Run:
        if training is None and alone in self._made:
            return self._made[alone]
        layout = Layout() if alone else self.request.layout
        run = hf_axolotl.Run(self.work, hf_axolotl.settings(self.work, layout, training), alone)
        if training is None:
            self._made[alone] = run
        return run

    def whole(self, checkpoint: Path) -> nn.Module:
        """The model as the loader makes it for one process."""
        return hf_axolotl.load(self._run(alone=True), checkpoint)

    def sharded(self, checkpoint: Path) -> nn.Module:
        """The model as the loader makes it for this world."""
        run = self._run(alone=False)
        model = hf_axolotl.load(run, checkpoint)
        return hf_model.checkpointed(self.work, model, run.cfg.gradient_checkpointing_kwargs)

    def loss(self, model: nn.Module, batch: MicroBatch, tokens: int) -> tuple[torch.Tensor, Any]:
        """The model's own loss function."""
        return hf_model.loss(model, batch, tokens)

    def train(self, model: nn.Module, training: Training) -> None:
        """`axolotl.train.execute_training` of the trainer that Axolotl builds."""
        run = self._run(alone=dist.get_world_size() == 1, training=training)
        self._trainer = hf_axolotl_trainer.train(run, model, training)

    def save(self, model: nn.Module, folder: Path) -> Path:
        """`axolotl.train.save_trained_model`."""
        return hf_axolotl_trainer.save(self._run(alone=dist.get_world_size() == 1), model, self._trainer, folder)

    def peers(self, samples: int) -> list[list[int]]:
        """Batches of the data loader of the trainer that Axolotl builds."""
        model = self.sharded(self.work.checkpoint)
        return hf_axolotl_trainer.batches(self._run(alone=False), model, samples)
