"""NeMo's training loop: its default loss, and its own statements between the last backward and the optimizer step."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside import gradient, world
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.device import Elsewhere
from tpscope.frameworks.inside.source import source_of, statements
from tpscope.frameworks.inside.trace import Trail, cite
from tpscope.language.layout import Layout

_RECIPE = "nemo_automodel.recipes.llm.train_ft"
_LOSS = "nemo_automodel.components.loss.masked_ce"


def observe(case: Case) -> None:
    """Fill `gradient_loop` and what the default loss does to the logits."""
    from tpscope.frameworks.inside.nemo import Meshes, build

    layout = Layout(tp=case.request.layout.tp, sequence_parallel=case.request.layout.sequence_parallel)
    if layout.tp == 1:
        gradient.without_tp(case.answer)
        return
    world.start(layout.tp)
    meshes = Meshes(case, layout, numbers=True)
    folder = str(case.small_folder)
    torch.manual_seed(0)
    if gradient.control(case, lambda: build(case, folder, meshes, "cpu")) is None:
        return
    model = meshes.apply(build(case, folder, meshes, "cpu"))
    trail = Trail(case.roots, ("recipes/llm/train_ft.py", "tp_replicas.py", "training/utils.py"), limit=250)
    criterion = importlib.import_module(_LOSS).MaskedCrossEntropy()
    head = case.answer.head
    head.loss = f"{type(criterion).__module__}.{type(criterion).__name__}"

    gradient.stir(model)
    seen, sharded = gradient.Observation(case, trail), False
    batch = gradient.inputs(gradient.vocabulary(model))
    try:
        with seen.recorder:
            with Elsewhere("cpu"):
                output = model(input_ids=batch["input_ids"])
            logits = getattr(output, "logits", output)
            sharded = hasattr(logits, "placements") and any(place.is_shard() for place in logits.placements)
            seen.phase("loss")
            value = criterion(logits, batch["labels"])
            value = value.full_tensor() if hasattr(value, "full_tensor") else value
            seen.phase("backward")
            with trail.on():
                value.backward()
            seen.backward_done(model)
            _between_backward_and_step(case, model, meshes.mesh, trail)
        seen.before_step(model)
    except Exception as error:  # noqa: BLE001 - what the sharded model raises is the framework's answer
        seen.failed(error)
    gathered = sharded and any(call.kind == "all_gather" for call in seen.recorder.calls if call.phase == "loss")
    head.loss_gathers = gathered
    if gathered:
        head.gathered_by = "loss"
        head.where = cite(case.roots, _LOSS.replace(".", "/") + ".py", "full_tensor()", "MaskedCrossEntropy")


def _between_backward_and_step(case: Case, model: nn.Module, mesh: Any, trail: Trail) -> None:
    """Run the recipe's statements after the micro-batches and before `opt.step()`; the recipe's object is stood in for
    by the attributes that those statements read."""
    path = source_of(_RECIPE)
    code, names = statements(path, "_run_train_optim_step", "_forward_backward_step", "step")
    case.shim("the recipe object of the training loop is a namespace with the attributes that its statements read")
    recipe = SimpleNamespace(
        model_parts=[model], device_mesh=mesh, moe_mesh=None, pp_enabled=False, cfg={},
        checkpointer=SimpleNamespace(maybe_wait_for_staging=lambda: None), optimizer=[],
        _get_dp_group_size=lambda include_cp=False: 1,
    )  # fmt: skip
    names.update(self=recipe, max_grad_norm=1e9, num_label_tokens=gradient.BATCH * gradient.SEQUENCE, num_batches=1)
    with trail.on():
        exec(code, names)
