"""One training step of each family at full size, with that framework's own model, sharding, loss and optimizer."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside import hf_engine, world
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.device import Elsewhere
from tpscope.frameworks.inside.hf_engine import Asked
from tpscope.frameworks.inside.loop_nemo import _LOSS as NEMO_LOSS
from tpscope.frameworks.inside.price.fake import Fake, filled, local
from tpscope.frameworks.inside.price.tracer import Tracer, axes_of
from tpscope.frameworks.inside.trace import failure
from tpscope.language.measured.price import StepTrace

DTYPE = torch.bfloat16
Loss = Callable[[nn.Module, torch.Tensor, Tracer], torch.Tensor]


def answer(family: str, case: Case, options: dict[str, Any]) -> StepTrace:
    """The trace of one step. `options`: `batch` and `sequence`, tokens of one micro-batch of a rank."""
    trace = StepTrace(case.request.framework)
    world.start(case.request.layout.world)
    fake = Fake()
    with case.during("model"):
        model, mesh, loss = (_nemo if family == "nemo" else _hugging_face)(case, fake)
    trace.model_class = f"{type(model).__module__}.{type(model).__qualname__}"
    trace.layers = int(model.config.get_text_config().num_hidden_layers)
    tracer = Tracer(model, case.roots, axes_of(mesh))
    with fake:
        optimizer = _optimizer(family, model, trace)
        tracer.ledger.holds(model)
        if optimizer is not None:
            _remembers(optimizer, model, tracer)
        ids = torch.randint(3, _vocabulary(model), (options["batch"], options["sequence"]))
        with tracer.on(), Elsewhere("cpu"):
            _step(case, model, loss, optimizer, ids, tracer, trace)
    trace.operations, trace.collectives = tracer.operations(), tracer.collectives()
    trace.memory, trace.dispatches = tracer.ledger.memory(), dict(tracer.dispatches)
    trace.assumptions += [f"a value is asked of data, {count} times a step, {what}" for what, count in tracer.asked.items()]
    return trace


def _step(
    case: Case, model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer | None, ids: torch.Tensor,
    tracer: Tracer, trace: StepTrace,
) -> None:  # fmt: skip
    """Forward, loss, backward, optimizer step; what stops it is kept, with everything up to there."""
    try:
        value = loss(model, ids, tracer)
        tracer.ledger.after["forward"] = tracer.ledger.now
        tracer.phase = "backward"
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda it: _is_gradient(it, tracer))
        value.backward()
        del value
        tracer.ledger.after["backward"] = tracer.ledger.now
        if optimizer is not None:
            tracer.phase = "step"
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tracer.ledger.after["step"] = tracer.ledger.now
    except Exception as error:  # noqa: BLE001 - what stops a framework's step is part of the answer
        trace.stopped = failure(error, tracer.phase, case.roots)[0]


def _is_gradient(parameter: torch.Tensor, tracer: Tracer) -> None:
    if parameter.grad is not None:
        tracer.ledger.see(local(parameter.grad), "backward", "", "gradients")


def _remembers(optimizer: torch.optim.Optimizer, model: nn.Module, tracer: Tracer) -> None:
    """Make the optimizer's state as a step before this one has left it, one parameter at a time: that cannot fail over
    which parameters stand together."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            parameter.grad = None
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                tracer.ledger.see(local(value), "before", "", "optimizer")


def _optimizer(family: str, model: nn.Module, trace: StepTrace) -> torch.optim.Optimizer | None:
    """AdamW as the framework makes it by default."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options: dict[str, Any] = {}
    if family != "nemo":
        from transformers import Trainer, TrainingArguments

        arguments = TrainingArguments(output_dir="trainer", report_to=[], use_cpu=True)
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    else:
        kind = torch.optim.AdamW
    trace.optimizer = f"{kind.__name__}({', '.join(f'{name}={value}' for name, value in options.items())})"
    return kind(trainable, **options)


def _vocabulary(model: nn.Module) -> int:
    return int(model.config.get_text_config().vocab_size)


def _nemo(case: Case, fake: Fake) -> tuple[nn.Module, Any, Loss]:
    from tpscope.frameworks.inside.nemo import Meshes, build

    meshes = Meshes(case, case.request.layout)
    model = build(case, str(case.folder), meshes, "meta", DTYPE)
    with fake:
        model = meshes.apply(filled(model))
    criterion = importlib.import_module(NEMO_LOSS).MaskedCrossEntropy()

    def loss(model: nn.Module, ids: torch.Tensor, tracer: Tracer) -> torch.Tensor:
        output = model(input_ids=ids)
        logits = getattr(output, "logits", output)
        tracer.phase = "loss"
        value = criterion(logits, ids)
        return value.full_tensor() if hasattr(value, "full_tensor") else value

    return model, meshes.mesh, loss


def _hugging_face(case: Case, fake: Fake) -> tuple[nn.Module, Any, Loss]:
    asked = Asked(case.request.layout.tp)
    model = hf_engine.build(str(case.folder), "meta", case.request.remote_code is not None, DTYPE)
    config, mesh = hf_engine.prepare(case, type(model), asked)
    with fake:
        model, _ = hf_engine.apply(case, filled(model), config, mesh, asked)
    own = model.loss_function

    def loss(model: nn.Module, ids: torch.Tensor, tracer: Tracer) -> torch.Tensor:
        def entered(*arguments: Any, **options: Any) -> torch.Tensor:
            tracer.phase = "loss"
            return own(*arguments, **options)

        model.loss_function = entered
        return model(input_ids=ids, labels=ids).loss

    return model, mesh if hasattr(mesh, "mesh_dim_names") else None, loss
