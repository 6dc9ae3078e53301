"""NeMo AutoModel's own reading of a recipe: its targets, its typed sections, its layout; and what it never reads."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from tpscope.frameworks.inside import world
from tpscope.frameworks.inside.keys import Reading, near, sizes_of
from tpscope.frameworks.inside.keys_nemo_unknown import PACKAGE, function, unknown
from tpscope.frameworks.inside.trace import cite, failure
from tpscope.language.keys import Complaint


def read(reading: Reading) -> None:
    """Load the recipe's YAML as NeMo does, build what it builds before the model, and look for keys nobody reads."""
    loader = importlib.import_module(f"{PACKAGE}.components.config.loader")
    data = copy.deepcopy(reading.request.data)
    targets = dict(_targets(reading, loader, data, ""))
    unknown(reading, data, targets)
    root = None
    with reading.step(Complaint.INVALID, ""):
        root = loader.ConfigNode(data)
    if root is None:
        return
    _sections(reading, root)
    _layout(reading, root)
    _steps(reading, root)
    _schedule(reading)
    for line in reading.answer.log:
        if line.level in ("WARNING", "ERROR") and line.logger.startswith(PACKAGE):
            reading.add(Complaint.WARNED, _mentioned(reading, line.message), line.message)


def _targets(reading: Reading, loader: Any, data: Any, place: str) -> Iterator[tuple[str, Any]]:
    """What every `_target_` names, by the path of its section. One that does not resolve is taken out of `data`."""
    if isinstance(data, list):
        for index, item in enumerate(data):
            yield from _targets(reading, loader, item, f"{place}.{index}" if place else str(index))
        return
    if not isinstance(data, dict):
        return
    for key, value in list(data.items()):
        here = f"{place}.{key}" if place else str(key)
        if key == "_target_" or (str(key).endswith("_fn") and isinstance(value, str)):
            try:
                found = loader._resolve_target(value)
                if key == "_target_":
                    yield place, found
            except Exception as error:  # noqa: BLE001 - whatever NeMo's resolver raises is the answer
                _unresolved(reading, here, str(value), error)
                del data[key]
        else:
            yield from _targets(reading, loader, value, here)


def _unresolved(reading: Reading, key: str, target: str, error: BaseException) -> None:
    """A target that does not resolve: for lack of a package here, or because it names nothing."""
    module, _, name = target.rpartition(".")
    missing = None
    while module:
        try:
            importlib.import_module(module)
            break
        except ModuleNotFoundError as inner:
            own = inner.name is not None and (target == inner.name or target.startswith(f"{inner.name}."))
            if not own or (inner.name or "").split(".")[0] == inner.name:
                missing = inner.name
                break
            module, _, name = module.rpartition(".")
        except ImportError:
            break
    if missing and missing != PACKAGE:
        message = f"{target} needs the package {missing}, which is not here"
        reading.add(Complaint.UNCHECKED, key, message)
        return
    found, _ = failure(error, "targets", reading.roots)
    holder = importlib.import_module(module) if module else None
    closest = [f"{module}.{item}" for item in near(name, [item for item in dir(holder) if not item.startswith("_")])]
    message = f"{found.kind}: {found.message}"
    reading.add(Complaint.INVALID, key, message, raises=True, closest=closest if holder else (), where=found.where)


def _sections(reading: Reading, root: Any) -> None:
    """Build every section that NeMo builds from the file alone: its typed views, and the LoRA config."""
    if importlib.util.find_spec(f"{PACKAGE}.recipes._typed_config") is not None:
        recipe = importlib.import_module(f"{PACKAGE}.recipes._typed_config").RecipeConfig
        view = recipe(root)
        for name, member in vars(recipe).items():
            if isinstance(member, cached_property) and name in reading.request.data:
                with reading.step(Complaint.INVALID, name):
                    getattr(view, name)
    if isinstance(reading.request.data.get("peft"), dict) and not _complained(reading, "peft"):
        with reading.step(Complaint.INVALID, "peft"):
            root.peft.instantiate()


def _complained(reading: Reading, section: str) -> bool:
    return any(found.raises and found.key.startswith(section) for found in reading.answer.findings)


def _layout(reading: Reading, root: Any) -> None:
    """Lay the ranks out by the function that the recipe calls first."""
    size = reading.request.world
    if not isinstance(reading.request.data.get("distributed"), dict):
        return
    world.start(size)
    setup = function(("_dist_utils", "_dist_setup"), "create_distributed_setup_from_config") or function(
        ("_dist_setup",), "setup_distributed"
    )
    with reading.step(Complaint.LAYOUT, "distributed"):
        if setup is not None:
            if "backend" in _fsdp2_fields():
                reading.shim("backend='gloo' in FSDP2Config: the mesh is built for the CPU instead of CUDA")
                root.distributed.__dict__["backend"] = "gloo"
            made = setup(root, world_size=size)
            context = getattr(made, "mesh_context", made)
            mesh = context.device_mesh
        else:
            reading.shim("FSDP2Manager(backend='gloo'): the mesh is built for the CPU instead of CUDA")
            mesh = getattr(root.distributed.instantiate(world_size=size, backend="gloo"), "device_mesh", None)
        reading.answer.mesh = sizes_of(mesh) if mesh is not None else {}


def _fsdp2_fields() -> set[str]:
    module = importlib.import_module(f"{PACKAGE}.components.distributed.config")
    return set(getattr(module.FSDP2Config, "__dataclass_fields__", {}))


def _steps(reading: Reading, root: Any) -> None:
    """NeMo's step scheduler with the data-parallel size of the mesh: are the batch sizes divisible?"""
    mesh, section = reading.answer.mesh, reading.request.data.get("step_scheduler")
    if mesh is None or not isinstance(section, dict) or _complained(reading, "step_scheduler"):
        return
    dp = 1
    for axis, size in mesh.items():
        dp *= size if axis.startswith(("dp", "data")) else 1
    scheduler = importlib.import_module(f"{PACKAGE}.components.training.step_scheduler").StepScheduler
    names = set(inspect.signature(scheduler).parameters)
    options = {key: value for key, value in root.step_scheduler.to_dict().items() if key in names}
    needed = {"dp_size": dp, "dataloader": [None] * 64, "local_batch_size": options.get("local_batch_size", 1)}
    options = {"ckpt_every_steps": 100, **options, **{key: value for key, value in needed.items() if key in names}}
    reading.shim("a list of 64 entries stands for the data loader of NeMo's StepScheduler")
    with reading.step(Complaint.INVALID, "step_scheduler.global_batch_size"):
        scheduler(**options)


def _schedule(reading: Reading) -> None:
    """The pipeline schedule by the function of torch that NeMo looks it up with."""
    distributed = reading.request.data.get("distributed") or {}
    for place, section in (
        ("distributed.pipeline", distributed.get("pipeline")),
        ("autopipeline", reading.request.data.get("autopipeline")),
    ):
        if isinstance(section, dict) and section.get("pp_schedule") and (distributed.get("pp_size") or 1) != 1:
            from torch.distributed.pipelining import schedules

            try:
                schedules.get_schedule_class(str(section["pp_schedule"]))
            except ValueError as error:
                where = None
                for root in reading.roots:
                    where = where or cite([root], f"{PACKAGE}/components/distributed/pipelining/functional.py",
                                          "get_schedule_class(pp_schedule)")  # fmt: skip
                names = [item for item in vars(schedules) if item.startswith("Schedule")]
                closest = [item.removeprefix("Schedule") for item in near(f"Schedule{section['pp_schedule']}", names)]
                message = f"ValueError: {error}"
                reading.add(
                    Complaint.INVALID, f"{place}.pp_schedule", message, raises=True, closest=closest, where=where
                )


def _mentioned(reading: Reading, message: str) -> str:
    """The key that a warning speaks of, by the dotted path or the name that stands in it."""
    paths = [path for path in _paths(reading.request.data, "") if f"`{path}`" in message or path in message.split()]
    return max(paths, key=len) if paths else ""


def _paths(data: Any, place: str) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            here = f"{place}.{key}" if place else str(key)
            yield here
            yield from _paths(value, here)
