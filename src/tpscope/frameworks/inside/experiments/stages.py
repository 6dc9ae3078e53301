"""One training step of every pipeline stage at full size, on fake tensors: NeMo's own splitter, strategy and default
loss, torch's own stage around them."""

from __future__ import annotations

import importlib
import os
import re
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from tpscope.frameworks.inside.case import Case, Refused
from tpscope.frameworks.inside.device import Elsewhere
from tpscope.frameworks.inside.experiments.pipeline import _be as be
from tpscope.frameworks.inside.experiments.pipeline import _kept as modules_of
from tpscope.frameworks.inside.loop_nemo import _LOSS as NEMO_LOSS
from tpscope.frameworks.inside.nemo import Meshes, build
from tpscope.frameworks.inside.price import step
from tpscope.frameworks.inside.price.fake import Fake, filled, local, unseen
from tpscope.frameworks.inside.price.ledger import ACTIVATIONS, GRADIENTS, LOGITS
from tpscope.frameworks.inside.price.tracer import Tracer, axes_of
from tpscope.frameworks.inside.price.where import OUTSIDE, Span
from tpscope.frameworks.inside.trace import failure
from tpscope.language.answer import Failure
from tpscope.language.measured.price import StepTrace
from tpscope.language.measured.stage import Stages, StageTrace
from tpscope.language.plan import wildcard
from tpscope.language.verdict import Status

_PIPELINING = "nemo_automodel.components.distributed.pipelining"
_MICRO_BATCHES = ("first", "other")


def answer(family: str, case: Case, options: dict[str, Any]) -> Stages:
    """Every distinct stage, traced in a process of its own. `options`: `batch`, `sequence`, `schedule`,
    `micro_batches`, and `kinds`, a number for the kind of each layer."""
    if family != "nemo":
        message = f"{family} has no splitter that tpscope knows of"
        raise Refused(Status.UNSUPPORTED, Failure("NoSuchSetting", message, "split"))
    layout = case.request.layout
    be(0, layout.world)
    with case.during("model"):
        model = build(case, str(case.folder), Meshes(case, layout), "meta", step.DTYPE)
    with case.during("split"):
        found, names = _planned(model, layout.pp, options["schedule"])
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, stage in enumerate(names):
        kinds = tuple(options["kinds"][number] for number in stage)
        groups.setdefault((index == 0, index == found.total - 1, kinds), []).append(index)
    children = {
        alike[0]: _fork(case, model, options, alike[0] % layout.pp, alike[0], case.folder.parent / f"stage-{alike[0]}")
        for alike in groups.values()
    }
    for index, child in children.items():
        os.waitpid(child, 0)
        left = case.folder.parent / f"stage-{index}"
        traced = torch.load(left, weights_only=False) if left.is_file() else StageTrace(index, error=_died(index))
        traced.like = next(alike for alike in groups.values() if alike[0] == index)
        if traced.error is None and traced.layers != names[index]:
            said = f"stage {index} has layers {traced.layers}, its plan says {names[index]}"
            traced.error = Failure("Mismatch", said, "split")
        found.traced.append(traced)
    case.shim(
        "AutoPipeline is given the strategy of the same version as parallelize_fn, fake tensors, one stage at a time"
    )
    return found


def _died(index: int) -> Failure:
    return Failure("ProcessDied", f"the process of stage {index} ended without an answer", "stage")


def _planned(model: nn.Module, ranks: int, schedule: str) -> tuple[Stages, list[list[int]]]:
    """How many stages the splitter makes, and the layers of each, by the functions that it asks."""
    functional = importlib.import_module(f"{_PIPELINING}.functional")
    single = importlib.import_module("torch.distributed.pipelining.schedules").PipelineScheduleSingle
    kind = functional.get_schedule_class(schedule)
    layers = int(model.config.get_text_config().num_hidden_layers)
    total, each = functional.calculate_virtual_stages(layers, None, ranks, issubclass(kind, single))
    names = functional.generate_hf_model_fqn_per_model_part(num_stages=total, num_layers=layers)
    numbers = [[int(found[1]) for name in stage if (found := re.search(r"layers\.(\d+)$", name))] for stage in names]
    return Stages(ranks, total, kind.__name__, each), numbers


def _fork(case: Case, model: nn.Module, options: dict[str, Any], rank: int, index: int, left: Path) -> int:
    """Trace a stage in a child: DTensor keeps what it planned on one rank's mesh, which is not another rank's."""
    child = os.fork()
    if child:
        return child
    try:
        torch.save(_stage(case, model, options, rank, index), f"{left}.partial")
        os.rename(f"{left}.partial", left)
    except BaseException as error:  # noqa: BLE001 - what a framework raises is told by the process that asked
        said = failure(error, case.phase, case.roots)[0] if isinstance(error, Exception) else None
        problem = said or Failure(type(error).__name__, traceback.format_exc()[-600:], "stage")
        torch.save(StageTrace(index, error=problem), left)
    os._exit(0)


def _stage(case: Case, model: nn.Module, options: dict[str, Any], rank: int, index: int) -> StageTrace:
    layout, started = case.request.layout, time.perf_counter()
    be(rank * (layout.world // layout.pp), layout.world)
    meshes, fake = Meshes(case, layout), Fake()
    # The head of a stage may not be there: tying again is for whole models.
    meshes._retie = lambda part: part  # type: ignore[method-assign]
    loss = importlib.import_module(NEMO_LOSS).MaskedCrossEntropy()

    def shard(part: nn.Module, **_: Any) -> nn.Module:
        with fake:
            return meshes.apply(filled(part))

    with case.during("split"):
        pieces = importlib.import_module(f"{_PIPELINING}.autopipeline").AutoPipeline(
            world_mesh=meshes.mesh, moe_mesh=None, pp_schedule=options["schedule"],
            pp_microbatch_size=options["batch"], pp_batch_size=options["batch"] * options["micro_batches"],
            device="meta", tp_axis_name="tp",
        )  # fmt: skip
        pieces.build(model, loss_fn=loss, parallelize_fn=shard)
    stage = next(one for one in pieces.info.stages if one.stage_index == index)
    return _Run(case, stage, loss, options, axes_of(meshes.mesh), fake).traced(started)


class _Run:
    """Two micro-batches of a stage, and the end of the step."""

    def __init__(self, case: Case, stage: Any, loss: Any, options: dict[str, Any], axes: dict[str, str], fake: Fake):
        self.case, self.stage, self.loss, self.options, self.axes, self.fake = case, stage, loss, options, axes, fake
        self.part: nn.Module = stage.submod
        names = [name for name, _ in self.part.named_modules()]
        self.layers = sorted({int(found[1]) for name in names if (found := re.search(r"layers\.(\d+)$", name))})
        self.result = StageTrace(stage.stage_index, layers=self.layers, modules=modules_of(self.part))
        self.kept: list[Any] = []
        self.ledger: Any = None

    def traced(self, started: float) -> StageTrace:
        """The stage's answer."""
        batch, sequence = self.options["batch"], self.options["sequence"]
        config = self.part.config.get_text_config()
        with self.fake, step.as_on_cuda(), unseen():
            ids = torch.randint(3, int(config.vocab_size), (batch, sequence))
            hidden = torch.empty(batch, sequence, int(config.hidden_size), dtype=step.DTYPE)
            given = ids if self.stage.is_first else hidden
            self.result.received = 0 if self.stage.is_first else _bytes(hidden)
            for name in _MICRO_BATCHES:
                trace = self._micro_batch(name, given, ids)
                setattr(self.result, name, trace)
                trace.seconds = round(time.perf_counter() - started, 2)
                if trace.stopped is not None:
                    break
        self.result.kept = _bytes(self.kept[0]) if self.kept else 0
        return self.result

    def _micro_batch(self, name: str, given: torch.Tensor, ids: torch.Tensor) -> StepTrace:
        """One of the two, in a trace of its own; what is alive goes on from one to the next."""
        case, last = self.case, name == "other"
        trace = StepTrace(case.request.framework, layers=len(self.layers), loss=type(self.loss).__name__)
        trace.model_class = f"{type(self.part).__module__}.{type(self.part).__qualname__}"
        tokens = self.options["batch"] * self.options["sequence"]
        # Every layer is a place of its own: stages are short, nothing is scaled.
        most = max(self.layers, default=0) + 1
        tracer = Tracer(self.part, case.roots, self.axes, Span(most, most), tokens)
        optimizer = step._optimizer("nemo", self.part, trace)
        if self.ledger is None:
            self.ledger = tracer.ledger
            self.ledger.holds(self.part, lambda name: wildcard(name.rpartition(".")[0]))
            if optimizer is not None:
                step._remembers(optimizer, self.part, tracer)
                self.optimizer = optimizer
            for parameter in self.part.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(lambda it: step._is_gradient(it, self.tracer))
        self.ledger._points, self.ledger.after = {}, {}
        tracer.ledger, self.tracer = self.ledger, tracer
        self.ledger.gone[:] = [tracer.sums.forget]
        with tracer.on(), Elsewhere("cpu"):
            try:
                self._run(tracer, given, ids, last, trace)
            except Exception as error:  # noqa: BLE001 - what stops a framework's step is part of the answer
                trace.stopped = failure(error, tracer.phase, case.roots)[0]
        trace.head, trace.vocabulary = tracer.head, step.vocabulary(self.part)
        trace.operations, trace.collectives, trace.moved = (
            tracer.operations(),
            tracer.collectives(),
            tracer.sums.moved(),
        )
        trace.memory, trace.asked = self.ledger.memory(), dict(tracer.routing.asked)
        trace.dispatches, trace.views, trace.calls = dict(tracer.dispatches), dict(tracer.views), dict(tracer.calls)
        return trace

    def _run(self, tracer: Tracer, given: torch.Tensor, ids: torch.Tensor, last: bool, trace: StepTrace) -> None:
        """Forward, loss and backward as torch's stage runs them; with the last micro-batch what ends the step."""
        stage, before = self.stage, self._made()
        given = given.detach().requires_grad_(given.is_floating_point())
        output = stage.forward_maybe_with_nosync(given)
        if stage.is_last:
            tracer.enter("loss")
            value = self.loss(output, ids)
            ends, gradient = value.full_tensor() if hasattr(value, "full_tensor") else value, None
            del value
            # The schedule gives the outputs of all micro-batches back when the step ends.
            self.kept.append(output)
        else:
            self.result.sent = _bytes(output)
            ends, gradient = (output,), (torch.empty_like(output),)
        self.result.saved = self._made() - before
        tracer.enter("backward")
        arguments = {"stage_output": ends, "output_grads": gradient, "input_values": [given]}
        stage.backward_maybe_with_nosync("full", arguments, last_backward=last)
        if stage.is_last:
            output.detach_()
        del ends, output, gradient, arguments
        self._gradients(tracer)
        if not last:
            tracer.enter("")
            return
        tracer.enter("reduce")
        stage.perform_reduce_grad(1)
        tracer.enter("step")
        step._update(self.case, self.optimizer, trace)
        self.optimizer.zero_grad(set_to_none=True)
        tracer.enter("")

    def _gradients(self, tracer: Tracer) -> None:
        """Gradients that wait for their reduction are held by FSDP2, whole over data-parallel ranks."""
        for module in self.part.modules():
            state = module._get_fsdp_state() if isinstance(module, FSDPModule) else None
            for group in getattr(state, "_fsdp_param_groups", None) or ():
                for parameter in group.fsdp_params:
                    whole = getattr(parameter, "_unsharded_param", None)
                    for held in (parameter.unsharded_accumulated_grad, whole.grad if whole is not None else None):
                        if held is not None:
                            tracer.ledger.see(local(held), "backward", OUTSIDE, GRADIENTS)

    def _made(self) -> int:
        """Bytes alive that forwards made."""
        return sum(size for (category, _), size in self.ledger._held.items() if category in (ACTIVATIONS, LOGITS))


def _bytes(tensor: torch.Tensor) -> int:
    """What one rank holds of a tensor."""
    return local(tensor).numel() * tensor.element_size()
