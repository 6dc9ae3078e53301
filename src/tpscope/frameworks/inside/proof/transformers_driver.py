"""transformers alone: `from_pretrained` with a distributed configuration, PEFT, and `Trainer.train`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside import hf_engine
from tpscope.frameworks.inside import transformers as hf
from tpscope.frameworks.inside.case import Refused
from tpscope.frameworks.inside.proof import hf_model, hf_trainer, rules
from tpscope.frameworks.inside.proof.driver import Driver, MicroBatch, Training, Work
from tpscope.frameworks.inside.trace import cite
from tpscope.language.answer import Failure, TrailLine
from tpscope.language.proof import Depth
from tpscope.language.verdict import Status


def preload() -> None:
    """Import the modules that every case uses."""
    hf.preload()
    for module in ("accelerate", "peft", "transformers.integrations.integration_utils"):
        importlib.import_module(module)


class TransformersDriver(Driver):
    """Both ends are public: `AutoModelForCausalLM.from_pretrained` and `Trainer.train`."""

    depth = Depth.ENTRY

    def __init__(self, work: Work):
        super().__init__(work)
        self._trainer: Any = None

    hooks = ("tensor_parallel.py", "transformers/distributed/", "transformers/trainer.py")

    def rules(self, model: nn.Module, patterns: tuple[str, ...]) -> list[TrailLine]:
        """Lines of the configuration class."""
        return rules.hugging_face(self.work, model, patterns)

    def planned(self, model: nn.Module) -> dict[str, Any]:
        """The model's own plan, or the user's."""
        own = hf.wanted_plan(self.work)  # type: ignore[arg-type]
        return {**hf_model.planned(model), **(own if isinstance(own, dict) else {})}

    def check(self) -> None:
        """Raise for what transformers has no setting for; its own refusals come from the loader."""
        layout, roots = self.request.layout, self.work.roots
        hf.know(self.work)  # type: ignore[arg-type]
        if layout.sequence_parallel:
            found = hf._no_sequence_parallel(self.work)  # type: ignore[arg-type]
            unsupported(f"asked for and ignored: {found['what']}")
        if layout.cp > 1:
            line = cite(roots, "transformers/distributed/utils.py", "if expected_world_size != world_size", "")
            why = f" ({line.path}:{line.line}: its mesh of pp, fsdp and tp must fill the world)" if line else ""
            unsupported(f"transformers' from_pretrained has no context parallel axis{why}", line)
        if layout.dp_shard > 1 and hf_engine.engine() != "distributed-config":
            unsupported("from_pretrained of this transformers takes a tp size and no data-parallel size")
        if layout.pp > 1:
            path = "transformers/distributed/pipeline_parallel.py"
            line = cite(roots, path, "return CausalLMOutputWithPast(logits=logits", "pipeline_parallel_naive_forward")
            if line is None:
                unsupported("this transformers has no pipeline parallelism")
            unsupported(
                f"transformers' pipeline runs forward only: its forward returns no loss ({line.path}:{line.line}: "
                f"{line.text}), and nothing sends gradients back to the stage before", line
            )  # fmt: skip

    def whole(self, checkpoint: Path) -> nn.Module:
        """The class that AutoModelForCausalLM picks, with adapters."""
        return self._adapted(hf_model.load(self.work, checkpoint, {}))

    def sharded(self, checkpoint: Path) -> nn.Module:
        """The same through the loader's own sharding; adapters after loading."""
        layout = self.request.layout
        asked = hf_engine.Asked(layout.tp, layout.dp_shard, plan=hf.wanted_plan(self.work))  # type: ignore[arg-type]
        model = hf_model.load(self.work, checkpoint, hf_model.distributed(asked))
        return hf_model.checkpointed(self.work, self._adapted(model))

    def _adapted(self, model: nn.Module) -> nn.Module:
        lora = self.request.scenario.lora
        return model if lora is None else hf.adapted(lora, model)

    def loss(self, model: nn.Module, batch: MicroBatch, tokens: int) -> tuple[torch.Tensor, Any]:
        """The model's own loss function."""
        return hf_model.loss(model, batch, tokens)

    def train(self, model: nn.Module, training: Training) -> None:
        """`Trainer(model, args).train()`."""
        self._trainer = hf_trainer.train(self.work, model, training)

    def save(self, model: nn.Module, folder: Path) -> Path:
        """`Trainer.save_model`."""
        return hf_trainer.save(self.work, model, self._trainer, folder)

    def peers(self, samples: int) -> list[list[int]]:
        """Batches of the Trainer's own data loader."""
        model = self.sharded(self.work.checkpoint)
        return hf_trainer.batches(self.work, hf_trainer.bare(self.work, model, hf_trainer.rows(samples)))


def unsupported(message: str, where: TrailLine | None = None) -> None:
    """Raise Refused(unsupported): the framework has no such setting."""
    raise Refused(Status.UNSUPPORTED, Failure("NoSuchSetting", message, "check", where))
