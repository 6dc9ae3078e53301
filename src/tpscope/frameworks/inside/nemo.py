"""NeMo AutoModel: its model resolver, mesh, validation, plan selection, LoRA translation and application."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from tpscope.frameworks.inside import loop_nemo, normal, params, world
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.device import Elsewhere
from tpscope.frameworks.inside.nemo_selection import FLAG, experiments, flagged, level_of, selection_trail
from tpscope.frameworks.inside.source import condition, source_of
from tpscope.frameworks.inside.trace import cite
from tpscope.language.answer import LoraAnswer, Mesh
from tpscope.language.layout import Layout

_DISTRIBUTED = "nemo_automodel.components.distributed"


def preload() -> None:
    """Import the modules that every case uses."""
    for name in (f"{_DISTRIBUTED}.parallelizer", f"{_DISTRIBUTED}.fsdp2", "nemo_automodel._transformers.auto_model"):
        importlib.import_module(name)


def answer(case: Case) -> None:
    """Fill the answer of one case."""
    layout = case.request.layout
    if layout.pp > 1:
        case.shim("the model is not split into pipeline stages: the plan is shown for the whole of it")
    world.start(layout.world)
    with case.during("mesh"):
        mesh = Meshes(case, layout)
        case.answer.mesh = mesh.described()
    with case.during("model"):
        model = build(case, str(case.folder), mesh, "meta")
        case.answer.model_class = f"{type(model).__module__}.{type(model).__qualname__}"
        before, names = params.shapes(model), [name for name, _ in model.named_modules()]
        case.answer.head.tied = params.tied(model)
    with case.during("select"):
        raw, trail = selection_trail(case, model)
        case.answer.selection.level, case.answer.selection.function = level_of(case, model, raw, trail)
        case.answer.selection.trail = trail.lines
        plan = normal.plan_of(raw, model, case.answer.selection.level)
        names += list(before)
    case.optional("experiments", lambda: experiments(case, model))
    with case.during("apply"):
        model = mesh.apply(model)
        case.answer.parameters = params.rows(model, before, plan)
        case.answer.head.tied_after = params.tied(model)
    case.answer.plan = normal.rows(plan, case.answer.parameters)
    if case.request.lora is not None:
        swap = importlib.import_module(f"{_DISTRIBUTED}.parallel_styles").translate_to_lora
        case.answer.lora.styles = sorted({type(swap(copy.copy(style))).__name__ for style in raw.values()})
    params.summarise(case.answer, plan, names)
    params.head(case.answer)
    _ignored(case, raw, model)
    world.stop()
    if case.small_folder is not None:
        case.optional("gradient", lambda: loop_nemo.observe(case))


class Meshes:
    """The mesh as this version builds it, and the strategy that shards a model over it."""

    def __init__(self, case: Case, layout: Layout, numbers: bool = False, more: dict[str, Any] | None = None):
        self.case = case
        self.layout = layout
        self.config: Any = None
        self.context: Any = None
        options: dict[str, Any] = {"sequence_parallel": layout.sequence_parallel}
        if numbers:
            case.shim("mixed precision is off where real numbers run: fp32 throughout")
            whole = MixedPrecisionPolicy(torch.float32, torch.float32, torch.float32, cast_forward_inputs=False)
            options["mp_policy"] = whole
        options |= more or {}
        sizes = {
            "dp_size": layout.dp_replicate * layout.dp_shard, "dp_replicate_size": layout.dp_replicate,
            "tp_size": layout.tp, "pp_size": layout.pp, "cp_size": layout.cp,
        }  # fmt: skip
        fsdp2 = importlib.import_module(f"{_DISTRIBUTED}.fsdp2")
        if flagged(case) and FLAG in getattr(fsdp2.FSDP2Manager, "__dataclass_fields__", {}):
            options[FLAG] = True
        elif flagged(case) and not numbers:
            what = f"{FLAG} is set in the file; this version has no such setting and says nothing"
            case.answer.ignored.append({"setting": FLAG, "what": what})
        plan = custom_plan(case)
        if has(f"{_DISTRIBUTED}.config"):
            config_class = importlib.import_module(f"{_DISTRIBUTED}.config").FSDP2Config
            self.config = config_class(**options, **({"tp_plan": plan} if plan else {}))
            self.mesh, self.moe_mesh = self._build(sizes, layout.world)
        else:
            manager = fsdp2.FSDP2Manager
            case.shim("FSDP2Manager(backend='gloo'): the mesh is built for the CPU instead of CUDA")
            options = {"custom_tp_plan": plan, **options}
            self.config = manager(**options, **sizes, backend="gloo", world_size=layout.world)
            self.mesh, self.moe_mesh = getattr(self.config, "device_mesh", None), None
            self.built_by = "FSDP2Manager._get_device_mesh"

    def _build(self, sizes: dict[str, int], size: int) -> tuple[Any, Any]:
        meshes = importlib.import_module(f"{_DISTRIBUTED}.mesh")
        if hasattr(meshes.MeshContext, "build"):
            self.built_by = "MeshContext.build"
            build = meshes.MeshContext.build
            self.context = build(self.config, meshes.ParallelismSizes(**sizes), world_size=size)
            return self.context.device_mesh, self.context.moe_mesh
        self.built_by = "create_device_mesh"
        create = importlib.import_module(f"{_DISTRIBUTED}.mesh_utils").create_device_mesh
        self.case.shim("backend='gloo' in FSDP2Config: the mesh is built for the CPU instead of CUDA")
        self.config.backend = "gloo"
        mesh, moe_mesh = create(self.config, **sizes, world_size=size)
        if hasattr(meshes.MeshContext, "from_meshes"):
            self.context = meshes.MeshContext.from_meshes(mesh, moe_mesh)
        return mesh, moe_mesh

    def described(self) -> Mesh:
        """Axis names and sizes, in the framework's order."""
        if self.mesh is None:
            return Mesh(built_by=self.built_by)
        names = [params.axis(name) for name in self.mesh.mesh_dim_names]
        root = getattr(self.mesh, "_get_root_mesh", lambda: self.mesh)()
        flattened = getattr(root, "_flatten_mapping", {}) or {}
        return Mesh(
            dict(zip(names, self.mesh.mesh.shape, strict=True)),
            {params.axis(name): [str(flat.size())] for name, flat in flattened.items()},
            self.built_by,
        )

    def validate(self, model: nn.Module) -> None:
        """The capability check that the framework runs before it shards, where this version has one."""
        if self.context is not None and has("nemo_automodel._transformers.capabilities"):
            check = importlib.import_module("nemo_automodel._transformers.capabilities")
            check.attach_capabilities_and_validate(model, self.context)

    def apply(self, model: nn.Module) -> nn.Module:
        """Shard a model with the framework's strategy. Its own validation comes first."""
        if has(f"{_DISTRIBUTED}.model_parallelizer"):
            parallelize = importlib.import_module(f"{_DISTRIBUTED}.model_parallelizer").parallelize_model
            mesh = importlib.import_module(f"{_DISTRIBUTED}.mesh").MeshContext
            model = parallelize(model, mesh.from_meshes(self.mesh, self.moe_mesh, strategy_config=self.config))
        elif has(f"{_DISTRIBUTED}.config"):
            manager = importlib.import_module(f"{_DISTRIBUTED}.fsdp2").FSDP2Manager
            model = manager(self.config, self.mesh, self.moe_mesh).parallelize(model)
        else:
            model = self.config.parallelize(model)
        return self._retie(model)

    def _retie(self, model: nn.Module) -> nn.Module:
        """Tie the head again as this version does: a function of its own, or statements of its checkpoint loader."""
        untied = not params.tied(model)
        infrastructure = "nemo_automodel._transformers.infrastructure"
        own = (
            getattr(importlib.import_module(infrastructure), "_ensure_tied_lm_heads", None)
            if has(infrastructure)
            else None
        )
        if own is not None:
            own(model)
            return model
        path, fragment = source_of("nemo_automodel.components.checkpoint.checkpointing"), "model.tie_weights()"
        wanted = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
        exec(condition(path, "load_base_model", fragment), {"model": model, "is_tied_lm_head": wanted})
        if untied and params.tied(model):
            relative = "nemo_automodel/components/checkpoint/checkpointing.py"
            self.case.answer.head.retied_at = cite(self.case.roots, relative, fragment, "load_base_model")
        return model


def custom_plan(case: Case) -> Any:
    """The user's own plan, as NeMo takes it: an import path. `file.py:name` is imported from its folder."""
    spec = case.request.custom_plan
    if spec is None:
        return None
    import sys
    from pathlib import Path

    file, _, name = spec.rpartition(":")
    path = Path(file)
    sys.path.insert(0, str(path.parent))
    value = getattr(importlib.import_module(path.stem), name)
    return value() if inspect.isfunction(value) else value


def build(case: Case, folder: str, mesh: Meshes, device: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model as this version's NeMoAutoModelForCausalLM makes it, LoRA included, before sharding."""
    from transformers import AutoConfig

    auto = importlib.import_module("nemo_automodel._transformers.auto_model")
    remote = case.request.remote_code is not None
    config = AutoConfig.from_pretrained(folder, trust_remote_code=remote)
    with Elsewhere(device) as elsewhere, torch.device(device):
        model = _resolved(case, auto.NeMoAutoModelForCausalLM, config, folder, mesh, dtype)
        mesh.validate(model)
        _lora(case, model)
    if elsewhere.used:
        case.shim(f"tensors that the model class puts on CUDA are put on {device}")
    return model


def _resolved(case: Case, auto: Any, config: Any, folder: str, mesh: Meshes, dtype: torch.dtype) -> nn.Module:
    """NeMo's resolver with its default attention, and eager attention where a class does not support that, as NeMo
    itself falls back."""
    remote = case.request.remote_code is not None
    extra = {"trust_remote_code": True} if remote else {}
    force_hf = case.request.variant == "hf" or bool(case.setting("nemo", "model.force_hf"))

    def make(attention: str) -> nn.Module:
        if has("nemo_automodel._transformers.model_init"):
            init = importlib.import_module("nemo_automodel._transformers.model_init")
            config.name_or_path = folder if remote else ""
            return init._init_model(auto, config, attention, dtype, None, force_hf, **extra)[1]
        case.shim("use_liger_kernel=False: Liger's kernels need a GPU (NeMo 0.2 turns them off under TP itself)")
        return auto.from_config(
            config, force_hf=force_hf, attn_implementation=attention, torch_dtype=dtype,
            use_liger_kernel=False, tp_size=mesh.layout.tp, cp_size=mesh.layout.cp, **extra,
        )  # fmt: skip

    try:
        return make("sdpa")
    except ValueError as error:
        if "does not support" not in str(error):
            raise
        return make("eager")


def _lora(case: Case, model: nn.Module) -> None:
    lora = case.request.lora
    if lora is None:
        return
    peft = importlib.import_module("nemo_automodel.components._peft.lora")
    everything = lora.targets == ("all-linear",)
    targets = [] if everything else [name if "*" in name else f"*.{name}" for name in lora.targets]
    options = {"dim": lora.r, "alpha": lora.alpha, "dropout": lora.dropout, "use_triton": False}
    options |= {"dropout_position": lora.dropout_position} if lora.dropout_position else {}
    config = peft.PeftConfig(target_modules=targets, match_all_linear=everything, **options)
    known = inspect.signature(peft.apply_lora_to_linear_modules).parameters
    count = peft.apply_lora_to_linear_modules(
        model, config, **({"skip_freeze": False} if "skip_freeze" in known else {})
    )
    if not case.answer.lora.requested:
        name = f"{peft.__name__}.{peft.apply_lora_to_linear_modules.__name__}"
        case.answer.lora = LoraAnswer(True, name, int(count or 0))


def _ignored(case: Case, raw: dict[str, Any], model: nn.Module) -> None:
    """Settings that were asked for and that the plan in force says nothing of."""
    if case.request.layout.sequence_parallel:
        kinds = {row.kind for row in case.answer.plan}
        sequence = kinds & {"sequence_parallel", "sequence_parallel_all_gather", "rotary"}
        scattered = [row for row in case.answer.plan if row.output == "Shard(dim=1)"]
        if not sequence and not scattered:
            level = case.answer.selection.level
            case.answer.ignored.append(
                {
                    "setting": "sequence_parallel",
                    "what": f"sequence parallel was asked for and ignored: the plan of level {level} has no rule that "
                    "shards the sequence, and nothing was raised",
                }
            )


def has(module: str) -> bool:
    """True if this version has a module of that name."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
