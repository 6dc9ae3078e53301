"""One training step of each family at full size, with that framework's own model, sharding, loss and optimizer."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside import world
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.device import Elsewhere
from tpscope.frameworks.inside.price.context import local_tokens
from tpscope.frameworks.inside.price.fake import Fake, local, unseen
from tpscope.frameworks.inside.price.ledger import GRADIENTS, OPTIMIZER
from tpscope.frameworks.inside.price.subjects import DTYPE, Loss, Wanted, built
from tpscope.frameworks.inside.price.tracer import Tracer, axes_of
from tpscope.frameworks.inside.price.where import OUTSIDE, Place, Span, plain
from tpscope.frameworks.inside.trace import failure
from tpscope.language.measured.price import StepTrace

__all__ = ["DTYPE", "answer", "run", "vocabulary", "written"]


def answer(family: str, case: Case, options: dict[str, Any]) -> list[StepTrace]:
    """One trace a config. `options`: `batch` and `sequence`, tokens of one micro-batch of the ranks that share it;
    `loss` and `recompute` as Wanted has them; `configs`, each with the part that its layers play: `start`, `period`,
    `end`."""
    world.start(case.request.layout.world)
    wanted = Wanted(options.get("loss", ""), options.get("recompute", ""))
    sequence = local_tokens(options["sequence"], case.request.layout.cp)
    found = []
    # DTensor remembers what it planned on a mesh: on a like one it uses the groups of the first.
    axes: dict[str, str] = {}
    for number, asked in enumerate(options["configs"]):
        case.folder = written(case, number, asked["config"])
        found.append(_traced(family, case, options["batch"], sequence, wanted, asked, axes))
    return found


def written(case: Case, number: int | str, config: dict[str, Any]) -> Path:
    """A folder like the case's with another config."""
    folder = case.folder.parent / f"layers-{number}"
    shutil.copytree(case.folder, folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _traced(
    family: str, case: Case, batch: int, sequence: int, wanted: Wanted, asked: dict[str, Any], axes: dict[str, str]
) -> StepTrace:
    trace, started = StepTrace(case.request.framework), time.perf_counter()
    fake = Fake()
    subject = built(family, case, fake, wanted)
    model, trace.loss = subject.model, subject.loss_name
    trace.assumptions += subject.assumptions
    trace.model_class = f"{type(model).__module__}.{type(model).__qualname__}"
    trace.layers = int(model.config.get_text_config().num_hidden_layers)
    span = Span(trace.layers, asked["start"], asked["period"], asked["end"])
    axes |= axes_of(subject.mesh)
    tracer = Tracer(model, case.roots, axes, span, batch * sequence)
    with fake, as_on_cuda(), unseen():
        optimizer = _optimizer(family, model, trace)
        tracer.ledger.holds(model, lambda name: plain(name.rpartition(".")[0]))
        if optimizer is not None:
            _remembers(optimizer, model, tracer)
        ids = torch.randint(3, vocabulary(model), (batch, sequence))
        with tracer.on(), Elsewhere("cpu"), subject.around():
            run(case, model, subject.loss, optimizer, ids, tracer, trace)
    trace.head, trace.vocabulary = tracer.head, vocabulary(model)
    trace.operations, trace.collectives, trace.moved = tracer.operations(), tracer.collectives(), tracer.sums.moved()
    trace.memory, trace.asked = tracer.ledger.memory(), dict(tracer.routing.asked)
    trace.dispatches, trace.views, trace.calls = dict(tracer.dispatches), dict(tracer.views), dict(tracer.calls)
    if any(item.name == "_grouped_mm" for item in trace.operations):
        trace.assumptions.append(f"every one of {tracer.routing.experts} experts gets as many tokens as the next")
    trace.seconds = round(time.perf_counter() - started, 2)
    return trace


def run(
    case: Case, model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer | None, ids: torch.Tensor,
    tracer: Tracer, trace: StepTrace,
) -> None:  # fmt: skip
    """Forward, loss, backward, optimizer step; what stops it is kept, with everything up to there."""
    try:
        value = loss(model, ids, tracer)
        tracer.enter("backward")
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda it: _is_gradient(it, tracer))
        value.backward()
        del value
        tracer.enter("step")
        if optimizer is not None:
            _update(case, optimizer, trace)
            optimizer.zero_grad(set_to_none=True)
        tracer.enter("")
    except Exception as error:  # noqa: BLE001 - what stops a framework's step is part of the answer
        trace.stopped = failure(error, tracer.phase, case.roots)[0]


def _update(case: Case, optimizer: torch.optim.Optimizer, trace: StepTrace) -> None:
    """The optimizer's step; where its fused kernel refuses these parameters, the same optimizer without it."""
    try:
        optimizer.step()
    except RuntimeError as error:
        if not any(group.get("fused") for group in optimizer.param_groups):
            raise
        for group in optimizer.param_groups:
            group["fused"] = False
        said = failure(error, "step", case.roots)[0].message
        trace.assumptions.append(
            f"the framework's default optimizer raises here ({said[:120]}): priced with fused=False"
        )
        optimizer.step()


def _is_gradient(parameter: torch.Tensor, tracer: Tracer) -> None:
    if parameter.grad is not None:
        tracer.ledger.see(local(parameter.grad), "backward", OUTSIDE, GRADIENTS)


def _remembers(optimizer: torch.optim.Optimizer, model: nn.Module, tracer: Tracer) -> None:
    """Make the optimizer's state as a step before this one has left it, one parameter at a time: that cannot fail over
    which parameters stand together."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            parameter.grad = None
            for value in optimizer.state[parameter].values():
                if isinstance(value, torch.Tensor):
                    place = Place(plain(name.rpartition(".")[0]))
                    tracer.ledger.see(local(value), "before", place, OPTIMIZER)


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """An optimizer that takes a list of tensors at once on CUDA and not on the CPU takes it here too."""
    from torch.optim import optimizer

    devices = optimizer._get_foreach_kernels_supported_devices
    optimizer._get_foreach_kernels_supported_devices = lambda: [*devices(), "cpu"]
    try:
        yield
    finally:
        optimizer._get_foreach_kernels_supported_devices = devices


def _optimizer(family: str, model: nn.Module, trace: StepTrace) -> torch.optim.Optimizer | None:
    """AdamW as the framework makes it by default: the Trainer's own groups of parameters, one group in NeMo."""
    options: dict[str, Any] = {}
    if family != "nemo":
        from transformers import Trainer, TrainingArguments

        # Of the Trainer only the function that makes the optimizer is asked.
        trainer = object.__new__(Trainer)
        trainer.args = TrainingArguments(output_dir="trainer", report_to=[], use_cpu=True)
        trainer.model = trainer.model_wrapped = model
        trainer.optimizer = trainer.optimizer_cls_and_kwargs = None
        _, options = Trainer.get_optimizer_cls_and_kwargs(trainer.args)
        made: torch.optim.Optimizer = trainer.create_optimizer()
        for group in [group for group in made.param_groups if not group["params"]]:
            made.param_groups.remove(group)
    else:
        made = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    trace.optimizer = f"{type(made).__name__}({', '.join(f'{name}={value}' for name, value in options.items())})"
    return made


def vocabulary(model: nn.Module) -> int:
    """How many tokens the model knows."""
    return int(model.config.get_text_config().vocab_size)
