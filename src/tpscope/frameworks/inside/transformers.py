"""Hugging Face transformers on its own, and what Axolotl shares with it: plan, mesh, application, PEFT, the Trainer."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from tpscope.frameworks.inside import gradient, hf_engine, loop_hf, normal, params, world
from tpscope.frameworks.inside.case import Case, Refused
from tpscope.frameworks.inside.hf_engine import Asked
from tpscope.frameworks.inside.precedence import Input, State, order, sweep
from tpscope.frameworks.inside.trace import Trail, cite
from tpscope.language.answer import Failure, LoraAnswer, Mesh
from tpscope.language.layout import Lora
from tpscope.language.verdict import Status

Prepare = Callable[[nn.Module, Any], None]
PARTS = (
    "transformers/distributed/mixin.py", "transformers/distributed/tensor_parallel.py",
    "transformers/distributed/parallel_utils.py", "transformers/distributed/utils.py",
    "transformers/integrations/tensor_parallel.py",
)  # fmt: skip


def preload() -> None:
    """Import the modules that every case uses."""
    importlib.import_module("transformers.modeling_utils")
    importlib.import_module("transformers.models.auto.modeling_auto")
    importlib.import_module("transformers.trainer")


def answer(case: Case) -> None:
    """Fill the answer of one case, transformers alone."""
    layout = case.request.layout
    world.start(layout.world)
    know(case)
    if layout.sequence_parallel:
        case.answer.ignored.append(_no_sequence_parallel(case))
    if layout.cp > 1:
        raise Refused(
            Status.UNSUPPORTED,
            Failure("Unsupported", "transformers' from_pretrained has no context parallel axis", "mesh"),
        )
    shard(
        case, Asked(layout.tp, layout.dp_shard * layout.dp_replicate, layout.pp, wanted_plan(case)), "DistributedConfig"
    )


def know(case: Case) -> None:
    """Raise Refused(unsupported) if this transformers has no class for the model type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = case.request.config.get("model_type", "")
    if case.request.remote_code is None and kind not in CONFIG_MAPPING_NAMES:
        version = importlib.import_module("transformers").__version__
        message = f"transformers {version} has no model type {kind!r}"
        raise Refused(Status.UNSUPPORTED, Failure("UnknownModelType", message, "model"))


def wanted_plan(case: Case) -> dict[str, str] | str:
    """The plan that the loader is asked for: the user's own, or "auto"."""
    if case.request.custom_plan is None:
        return "auto"
    from tpscope.frameworks.inside.nemo import custom_plan

    return custom_plan(case)


def shard(case: Case, asked: Asked, mesh_by: str, before_training: Prepare = lambda model, mesh: None) -> None:
    """Everything from mesh to gradients with transformers' own engine."""
    trail = Trail(case.roots, PARTS)
    remote = case.request.remote_code is not None
    with case.during("model"):
        with trail.on():
            model: nn.Module = hf_engine.build(str(case.folder), "meta", remote)
        case.answer.model_class = f"{type(model).__module__}.{type(model).__qualname__}"
        before, names = params.shapes(model), [name for name, _ in model.named_modules()]
        case.answer.head.tied = hf_engine.tied(model)
        loss = getattr(model, "loss_function", None)
        case.answer.head.loss = f"{loss.__module__}.{loss.__qualname__}" if loss is not None else None
    with case.during("mesh"), trail.on():
        config, mesh = hf_engine.prepare(case, type(model), asked)
        case.answer.mesh = described(asked.mesh if asked.mesh is not None else mesh, mesh_by)
    with case.during("apply"):
        raw = dict(getattr(model, "tp_plan", None) or {})
        if isinstance(asked.plan, dict):
            raw = {**raw, **asked.plan} if hf_engine.engine() == "distributed-config" else dict(asked.plan)
        plan = normal.plan_of(raw, model, "hf")
        case.answer.selection.level = "custom" if isinstance(asked.plan, dict) else "hf"
        with trail.on():
            model, decided = hf_engine.apply(case, model, config, mesh, asked)
        if case.request.lora is not None:
            before = params.shapes(lora(case, hf_engine.build(str(case.folder), "meta", remote)))
        model = lora(case, model)
        case.answer.parameters = params.rows(model, before, plan, decided)
        case.answer.lora.note = params.plain_adapters(model, before)
        case.answer.head.tied_after = params.tied(model)
    selection = case.answer.selection
    selection.trail = trail.lines
    selection.function = _source(case)
    case.answer.plan = normal.rows(plan, case.answer.parameters)
    params.summarise(case.answer, plan, names + list(before))
    if asked.tp > 1 and not any(row.placement != "Replicate()" for row in case.answer.parameters):
        case.answer.ignored.append(
            {
                "setting": "tensor parallel",
                "what": f"tp={asked.tp} was asked for, no plan was found, every rank holds the whole model, and "
                "nothing was raised",
            }
        )
    params.head(case.answer)
    world.stop()
    if asked.tp == 1:
        gradient.without_tp(case.answer)
    elif case.small_folder is not None:
        case.optional("experiments", lambda: _experiments(case, asked))
        case.optional("gradient", lambda: loop_hf.observe(case, before_training))


def described(mesh: Any, built_by: str) -> Mesh:
    """Axis names and sizes of a DeviceMesh or of transformers' mesh manager."""
    if hasattr(mesh, "get_mesh") and not hasattr(mesh, "mesh_dim_names"):
        mesh = mesh.get_mesh(("pp", "fsdp", "tp"))
    if mesh is None:
        return Mesh(built_by=built_by)
    names = mesh.mesh_dim_names or ("tp",)
    return Mesh(dict(zip(names, mesh.mesh.shape, strict=True)), {}, built_by)


def lora(case: Case, model: nn.Module) -> nn.Module:
    """LoRA by PEFT on the sharded model, as Axolotl and the Trainer do it: after loading."""
    asked = case.request.lora
    if asked is None:
        return model
    wrapped = adapted(asked, model)
    count = sum(1 for name, _ in wrapped.named_parameters() if "lora_A" in name)
    if not case.answer.lora.requested:
        case.answer.lora = LoraAnswer(True, "peft.get_peft_model", count)
    return wrapped


def adapted(asked: Lora, model: nn.Module) -> nn.Module:
    """The model with PEFT's adapters on it."""
    from peft import LoraConfig, get_peft_model

    first = asked.targets[0]
    # PEFT takes a list of names, or one string: its keyword, or an expression over whole module names.
    single = len(asked.targets) == 1 and (first == "all-linear" or not re.fullmatch(r"[\w.-]+", first))
    targets = first if single else list(asked.targets)
    config = LoraConfig(
        r=asked.r, lora_alpha=asked.alpha, lora_dropout=asked.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def _no_sequence_parallel(case: Case) -> dict[str, str]:
    fragment = "Reserved for sequence parallelism. Not wired up yet."
    line = cite(case.roots, "transformers/distributed/configuration_utils.py", fragment, "DistributedConfig")
    where = f" ({line.path}:{line.line}: {line.text})" if line else ""
    return {
        "setting": "sequence_parallel",
        "what": f"sequence parallel was asked for; no setting of transformers turns it on{where}",
    }


def _source(case: Case) -> str:
    """Where the plan's rules stand: the configuration class of the model, if it has a base_model_tp_plan."""
    kind = case.request.config.get("model_type", "").replace("_text", "").replace("-", "_")
    path = f"transformers/models/{kind}/configuration_{kind}.py"
    line = cite(case.roots, path, "base_model_tp_plan")
    return f"{path}:{line.line}" if line else ""


def _experiments(case: Case, asked: Asked) -> None:
    """Which source wins: a plan of the user's, the plan of the configuration class, or nothing."""
    import logging
    import warnings

    remote = case.request.remote_code is not None
    modern = hf_engine.engine() == "distributed-config"
    inputs = [
        Input("hf", ("absent", "present"), {"present": "the model has a _tp_plan (base_model_tp_plan of its config)"})
    ]
    if modern and asked.mesh is None:
        words = {"given": "a plan is given (DistributedConfig(tp_plan=...))"}
        inputs.insert(0, Input("custom", ("none", "given"), words))
    probe = ("model.layers.*.mlp.down_proj", "rowwise")

    def choose(state: State) -> str:
        model = hf_engine.build(str(case.small_folder), "meta", remote)
        own = {"lm_head": "colwise_gather_output" if modern else "colwise_rep"} if state["hf"] == "present" else {}
        model._tp_plan = dict(own)
        plan: dict[str, str] | str = {probe[0]: probe[1]} if state.get("custom") == "given" else "auto"
        try:
            config, mesh = hf_engine.prepare(case, type(model), Asked(asked.tp, plan=plan))
            sharded, _ = hf_engine.apply(case, model, config, mesh, Asked(asked.tp, plan=plan))
        except Exception as error:  # noqa: BLE001 - a refusal is an outcome of the experiment
            return f"raised: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        finally:
            world.stop()
            world.start(asked.tp)
        whole = params.shapes(hf_engine.build(str(case.small_folder), "meta", remote))
        cut = {
            row.name
            for row in params.rows(sharded, whole, normal.plan_of({}, sharded, ""))
            if row.placement != "Replicate()"
        }
        if any("down_proj" in name for name in cut):
            return "custom"
        return "hf" if cut else "none"

    world.start(asked.tp)
    own = {
        "hf": "present" if case.answer.plan else "absent",
        "custom": "given" if isinstance(asked.plan, dict) else "none",
    }
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes = sweep(inputs, choose)
    finally:
        logging.disable(before)
        world.stop()
    selection = case.answer.selection
    selection.experiments = [{**state, "outcome": outcome} for state, outcome in outcomes]
    selection.order = order(inputs, outcomes, own, selection.level)
