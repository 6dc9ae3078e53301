"""transformers' Trainer around a parallelized model: equal batches on all tp ranks, true norms, whole checkpoints."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tpscope.engine.adapters import fill_adapters
from tpscope.engine.gradients import clip_grad_norm_, finish_gradients, grad_norm
from tpscope.engine.held import axis_of
from tpscope.engine.state import load_optimizer, save_optimizer
from tpscope.engine.weights import load_pretrained, save_pretrained
from tpscope.errors import UserError


@functools.cache
def trainer(kind: type[Any] | None = None) -> type[Any]:
    """A subclass of transformers' Trainer, or of `kind` (a Trainer of your own), for a parallelized model.

    Its ranks are those of tp alone. Everything else is the Trainer's: arguments, callbacks, loop, evaluation. Clipping
    and the logged norm count each number once, evaluation each sample, checkpoints hold the model in Hugging Face's
    format and an optimizer that another number of ranks can load. Making one raises UserError where other ranks than
    tp's are there, or `load_best_model_at_end` is asked for.
    """
    from accelerate import ParallelismConfig
    from accelerate.utils import recursively_apply
    from transformers import Trainer

    base = kind or Trainer

    class Config(ParallelismConfig):  # type: ignore[misc]
        """Accelerate knows tp on accelerators alone; gloo on a CPU serves to try a script."""

        def _validate_accelerator(self, accelerator: Any) -> None:
            if accelerator.device.type != "cpu":
                super()._validate_accelerator(accelerator)

    class TpscopeTrainer(base):  # type: ignore[misc, valid-type]
        """See `tpscope.trainer`."""

        def __init__(self, model: nn.Module, args: Any, **more: Any):
            size = axis_of(model).size
            if size != dist.get_world_size():
                raise UserError(
                    f"tpscope.trainer: tp has {size} of {dist.get_world_size()} ranks, and the Trainer would have to "
                    "share data over the others; lay tp over all ranks, or write a loop as in examples/finetune.py"
                )
            if args.load_best_model_at_end:
                raise UserError(
                    "tpscope.trainer: load_best_model_at_end is not supported; leave it out and take the checkpoint "
                    "that trainer_state.json names"
                )
            self._tp_ranks = size
            super().__init__(model, args, **more)

        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            # As for evaluation: autocast is put around the model, and nothing that would share it out over ranks again.
            prepare = self.accelerator.prepare_model
            self.accelerator.prepare_model = lambda model, *more, **ways: prepare(model, evaluation_mode=True)
            self.gather_function = self._own

        def _own(self, found: Any, **ways: Any) -> Any:
            """In the place of `gather_for_metrics`, which would count what all tp ranks evaluate several times; what
            stands for samples beyond the last goes, as there."""
            state = self.accelerator.gradient_state
            if not state.end_of_dataloader or state.remainder <= 0:
                return found
            return recursively_apply(lambda tensor: tensor[: state.remainder], found)

        def _build_accelerator_args(self, **more: Any) -> dict[str, Any]:
            found: dict[str, Any] = super()._build_accelerator_args(**more)
            return found | {"parallelism_config": Config(tp_size=self._tp_ranks)} if self._tp_ranks > 1 else found

        def get_tp_size(self) -> int:
            return self._tp_ranks

        def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
            return clip_grad_norm_(model, self.args.max_grad_norm)

        def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
            return _norm(model) if grad_norm is None else grad_norm

        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            """The whole model, or its adapters, by the first rank."""
            folder = Path(output_dir or self.args.output_dir)
            save_pretrained(self.model, folder)
            if self.args.should_save:
                if self.processing_class is not None:
                    self.processing_class.save_pretrained(folder)
                torch.save(self.args, folder / "training_args.bin")
            dist.barrier()

        def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
            save_optimizer(Path(output_dir) / "optimizer", self.model, self.optimizer.optimizer)
            if self.args.should_save:
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            if checkpoint is None:
                return
            load_optimizer(Path(checkpoint) / "optimizer", self.model, self.optimizer.optimizer)
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True))

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
            folder = Path(resume_from_checkpoint)
            adapters = (folder / "adapter_config.json").is_file()
            (fill_adapters if adapters else load_pretrained)(model or self.model, folder)

    return TpscopeTrainer


def _norm(model: nn.Module) -> torch.Tensor:
    finish_gradients(model)
    return grad_norm(model)
