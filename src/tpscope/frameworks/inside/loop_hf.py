"""transformers' training loop: its own Trainer on a small sharded model, stopped just before the optimizer step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside import gradient, hf_engine, world
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.hf_engine import Asked
from tpscope.frameworks.inside.trace import Trail

# Clipping on, as it is by default, at a norm that no gradient reaches.
CLIP = 1e9
_PARTS = ("tensor_parallel.py", "transformers/trainer.py", "accelerate/accelerator.py", "accelerate/optimizer.py")


class _BeforeStep(Exception):
    """Raised where the optimizer would step: what the loop does to gradients has been done."""


def observe(case: Case, prepare: Callable[[nn.Module, Any], None]) -> None:
    """Fill `gradient_loop` of every parameter. `prepare` does what a framework does before it makes its Trainer."""
    from tpscope.frameworks.inside.transformers import lora, wanted_plan

    tp, remote = case.request.layout.tp, case.request.remote_code is not None
    world.start(tp)

    def build() -> nn.Module:
        torch.manual_seed(0)
        return hf_engine.build(str(case.small_folder), "cpu", remote)

    def unsharded() -> nn.Module:
        model = build()
        model.tie_weights()
        return model

    if gradient.control(case, unsharded) is None:
        return

    def sharded() -> nn.Module:
        asked = Asked(tp, plan=wanted_plan(case))
        model = build()
        config, mesh = hf_engine.prepare(case, type(model), asked)
        model, _ = hf_engine.apply(case, model, config, mesh, asked)
        prepare(model, mesh)
        model = lora(case, model)
        gradient.stir(model)
        return model

    model = sharded()
    seen = gradient.Observation(case, Trail(case.roots, _PARTS, limit=150))
    try:
        with seen.recorder:
            _train(case, model, seen)
        return
    except Exception as error:  # noqa: BLE001 - what the sharded model raises is the framework's answer
        seen.failed(error)
    finally:
        sys.settrace(None)
    if case.answer.error is None:
        _as_far_as_it_got(case, model, seen, sharded)


def _as_far_as_it_got(
    case: Case, model: nn.Module, seen: gradient.Observation, sharded: Callable[[], nn.Module]
) -> None:
    """The loop raised: gradients as they were then; if it raised before the backward, those of a lone backward."""
    if seen.reached_backward:
        seen.before_step(model)
        case.answer.forward["observed"] = "up to the line of the training loop that raised"
        return
    model = sharded()
    alone = gradient.Observation(case, Trail(case.roots, _PARTS, limit=150))
    try:
        with alone.recorder:
            alone.phase("forward")
            value = model(**gradient.inputs(gradient.vocabulary(model))).loss
            alone.phase("backward")
            with alone.trail.on():
                value.backward()
            alone.backward_done(model)
    except Exception as error:  # noqa: BLE001 - what the sharded model raises is the framework's answer
        alone.failed(error)
        return
    alone.before_step(model)
    case.answer.forward["observed"] = "forward and backward only: the training loop raised before them"


def _train(case: Case, model: nn.Module, seen: gradient.Observation) -> None:
    """Run the Trainer's own steps up to the first optimizer step."""
    from accelerate import Accelerator
    from transformers import Trainer, TrainerCallback, TrainingArguments

    case.shim("Accelerator.multi_device is True: accelerate does not count several CPU processes as devices")
    case.shim("the Trainer runs with use_cpu on a fake process group instead of CUDA and NCCL")
    Accelerator.multi_device = property(lambda self: True)

    class Loop(Trainer):
        def training_step(self, model: nn.Module, *arguments: Any, **options: Any) -> torch.Tensor:
            seen.phase("forward")
            value = super().training_step(model, *arguments, **options)
            seen.backward_done(self.model)
            seen.trail.follow(sys._getframe(1))
            return value

    class Stop(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **options: Any) -> None:
            sys.settrace(None)
            seen.before_step(options["model"])
            raise _BeforeStep

    batch = gradient.inputs(gradient.vocabulary(model))
    rows = [{"input_ids": row, "labels": row} for row in batch["input_ids"].tolist()]
    arguments = TrainingArguments(
        output_dir="trainer", per_device_train_batch_size=gradient.BATCH, max_steps=1, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, max_grad_norm=CLIP, logging_strategy="no",
    )  # fmt: skip
    seen.phase("loop")
    trainer = Loop(model=model, args=arguments, train_dataset=rows, callbacks=[Stop()])
    backward = trainer.accelerator.backward

    def in_backward(*arguments: Any, **options: Any) -> None:
        seen.phase("backward")
        with seen.trail.on():
            backward(*arguments, **options)

    trainer.accelerator.backward = in_backward
    try:
        trainer.train()
    except _BeforeStep:
        return
    raise RuntimeError("the Trainer came to an end without an optimizer step")
