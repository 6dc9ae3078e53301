"""NeMo's own recipe object: set up from a config on this machine, and its training loop."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn

from tpscope.frameworks.inside.device import Elsewhere
from tpscope.frameworks.inside.proof import nemo_config
from tpscope.frameworks.inside.proof.driver import Step, Training, Work

RECIPE = "nemo_automodel.recipes.llm.train_ft"
_NEVER = 1e9
_CUDA = ("reset_peak_memory_stats", "empty_cache", "synchronize", "max_memory_allocated")


class Card(int):
    """The number of the current CUDA device, told from every other number."""


class OnCpu(Elsewhere):
    """`Elsewhere` for the CPU, where a device is also made of a word and a number, or is CUDA's current number."""

    def __init__(self) -> None:
        super().__init__("cpu")

    def __enter__(self) -> Any:
        mode = super().__enter__()
        torch.cuda.current_device = lambda: Card(0)
        return mode

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run one call of torch with every CUDA device in it replaced."""
        if func is torch.device and args and str(args[0]).startswith("cuda"):
            self.used = True
            return self.device
        return super().__torch_function__(func, types, args, kwargs)

    def _moved(self, value: Any) -> Any:
        if isinstance(value, Card):
            self.used = True
            return self.device
        return super()._moved(value)


def _zero(*_: Any, **__: Any) -> int:
    return 0


@contextmanager
def here(work: Work, move: bool = True) -> Iterator[None]:
    """The places where NeMo names CUDA, on this machine: memory statistics are zero, and (`move`) tensors that it
    puts on CUDA are put on the CPU."""
    work.shim("the device: what NeMo puts on CUDA is put on the CPU, and CUDA's memory statistics are zero")
    with ExitStack() as stack:
        for name in _CUDA:
            stack.enter_context(mock.patch.object(torch.cuda, name, _zero))
        stack.enter_context(mock.patch.object(torch.Tensor, "cuda", torch.Tensor.cpu))
        if move:
            stack.enter_context(OnCpu())
        yield


@contextmanager
def alone() -> Iterator[None]:
    """No process group, as in a process that nobody launched: the group of this world is set aside meanwhile."""
    group = dist.GroupMember.WORLD
    single = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    with mock.patch.dict(os.environ, single):
        dist.GroupMember.WORLD = None
        try:
            yield
        finally:
            dist.GroupMember.WORLD = group


def module() -> Any:
    """The module of NeMo's fine-tuning recipe."""
    return importlib.import_module(RECIPE)


def set_up(work: Work, checkpoint: Path, samples: int | None = None) -> Any:
    """The recipe after its own `setup()`: model loaded and sharded, optimizer, loader and scheduler built.

    `checkpoint` is a model, or a LoRA adapter that the recipe saved. With `samples` the dataset is that many rows that
    carry their own number, shuffled as NeMo shuffles by default.
    """
    config = nemo_config.recipe_config(work, checkpoint, work.request.layout, samples)
    recipe = module().TrainFinetuneRecipeForNextTokenPrediction(nemo_config.node(config))
    with here(work), _on_cpu():
        recipe.setup()
    if recipe.pp_enabled:
        for part in recipe.model_parts:
            part.register_forward_pre_hook(_embedded, with_kwargs=True)
        work.shim("float64 enters a pipeline stage as inputs_embeds: NeMo knows hidden states by fp16, bf16 and fp32")
    return recipe


def _embedded(part: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    """A stage's input, `[batch, seq, hidden]` in float64, by its name."""
    if arguments and isinstance(arguments[0], torch.Tensor) and arguments[0].dtype == torch.float64:
        return arguments[1:], {**options, "inputs_embeds": arguments[0]}
    return arguments, options


@contextmanager
def _on_cpu() -> Iterator[None]:
    """NeMo's launch information names the CPU: without a GPU it names no device at all."""
    loop = module()
    name = "build_distributed" if hasattr(loop, "build_distributed") else "initialize_distributed"
    original = getattr(loop, name)

    def launched(*arguments: Any, **options: Any) -> Any:
        return replace(original(*arguments, **options), device=torch.device("cpu"))

    with mock.patch.object(loop, name, launched):
        yield


def run(work: Work, recipe: Any, training: Training) -> None:
    """NeMo's own loop over the micro-batches of every step: `run_train_validation_loop`."""
    dataset = recipe.dataloader.dataset
    dataset.rows = [row for step in training.micro_batches for batch in step for row in nemo_config.rows_of(batch)]
    scheduler = recipe.step_scheduler
    scheduler.max_steps = len(training.micro_batches)
    scheduler.grad_acc_steps = len(training.micro_batches[0])
    limit = _NEVER if training.clip is None else training.clip
    if hasattr(recipe, "max_grad_norm"):
        recipe.max_grad_norm = limit
    else:
        work.shim("clipping: the loop of this version has its limit of 1.0 in the code; ours is handed to its function")
    _tune(recipe.optimizer, training)
    with here(work, move=False), _watched(recipe, training, limit), _wide(work, recipe):
        recipe.run_train_validation_loop()


@contextmanager
def _wide(work: Work, recipe: Any) -> Iterator[None]:
    """The loss that a pipeline reports is float64 on every stage: one without a loss holds a new float32 zero, and the
    last stage sends it a float64 number."""
    if not recipe.pp_enabled:
        yield
        return
    work.shim("the loss that a pipeline's stages send each other for the log is float64 on all of them")
    reduce = recipe._dp_allreduce

    def reduced(*arguments: Any, **options: Any) -> Any:
        found = reduce(*arguments, **options)
        return found.double() if found.dtype == torch.float32 else found

    object.__setattr__(recipe, "_dp_allreduce", reduced)
    try:
        yield
    finally:
        object.__delattr__(recipe, "_dp_allreduce")


def _tune(optimizers: list[torch.optim.Optimizer], training: Training) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.update(lr=training.lr, eps=training.eps, weight_decay=training.weight_decay)


@contextmanager
def _watched(recipe: Any, training: Training, limit: float) -> Iterator[None]:
    """The loop with our eyes on it: its backward inside `around_backward`, `before_step` ahead of the optimizer."""
    seen: dict[str, Any] = {"norm": None}
    loop = module()
    clip, step = loop.scale_grads_and_clip_grad_norm, recipe._forward_backward_step

    def clipped(_: Any, *arguments: Any, **options: Any) -> Any:
        # Early versions have the limit of 1.0 in their loop, where no setting reaches it.
        seen["norm"] = clip(limit, *arguments, **options)
        return seen["norm"]

    def stepped(*arguments: Any, **options: Any) -> Any:
        with training.around_backward(recipe.model_parts[0]):
            return step(*arguments, **options)

    def before(*_: Any) -> None:
        training.before_step(Step(recipe.model_parts[0], _number(seen["norm"])))

    first = recipe.optimizer[0]
    handle = first.register_step_pre_hook(before)
    with mock.patch.object(loop, "scale_grads_and_clip_grad_norm", clipped):
        object.__setattr__(recipe, "_forward_backward_step", stepped)
        try:
            yield
        finally:
            object.__delattr__(recipe, "_forward_backward_step")
            handle.remove()


def _number(value: Any) -> float | None:
    if value is None:
        return None
    whole = value.full_tensor() if hasattr(value, "full_tensor") else value
    return float(whole)


def whole(work: Work, checkpoint: Path) -> nn.Module:
    """The model of NeMo's public entry without any distribution, in a process that has no group."""
    work.shim("the unsharded model is loaded as by a process that nobody launched: WORLD_SIZE is 1")
    with alone(), here(work):
        auto = importlib.import_module("nemo_automodel._transformers.auto_model").NeMoAutoModelForCausalLM
        section = nemo_config.model_section(work, checkpoint)
        section.pop("_target_")
        if nemo_config.takes(auto.from_pretrained, "peft_config"):
            if work.request.scenario.lora is not None:
                section["peft_config"] = nemo_config.node(nemo_config.peft_section(work)).instantiate()
            return auto.from_pretrained(**section)
        return _built(work, checkpoint)


def _built(work: Work, checkpoint: Path) -> nn.Module:
    """Early versions load in the recipe: its function that builds the model, with its manager for one process."""
    from tpscope.language.layout import Layout

    loop = module()
    config = nemo_config.node(nemo_config.recipe_config(work, checkpoint, Layout()))
    peft = config.peft.instantiate() if work.request.scenario.lora is not None else None
    settings = loop.build_checkpoint_config(None, None, str(checkpoint), peft is not None)
    checkpointer = loop.Checkpointer(config=settings, dp_rank=0, tp_rank=0, pp_rank=0, moe_mesh=None)
    manager = config.distributed.instantiate(world_size=1)
    return loop.build_model_and_optimizer(
        torch.device("cpu"), config.model, config.optimizer, peft, manager, 42, checkpointer,
        loss_fn=config.loss_fn.instantiate(),
    )[0]  # fmt: skip


Stepped = Callable[[Step], None]
