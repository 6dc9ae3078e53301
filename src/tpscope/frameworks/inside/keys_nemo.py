"""NeMo AutoModel's own reading of a recipe: its targets, its typed sections, its layout; and what it never reads."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from tpscope.frameworks.inside import world
from tpscope.frameworks.inside.keys import Reading, near, sizes_of
from tpscope.frameworks.inside.reads import Reads, imported, reads_of
from tpscope.frameworks.inside.trace import cite, failure
from tpscope.language.answer import TrailLine
from tpscope.language.keys import Complaint

_PACKAGE = "nemo_automodel"
_RECIPES = f"{_PACKAGE}/recipes"
_RECIPE = f"{_RECIPES}/llm/train_ft.py"
_BESIDE = ("base_recipe", "_dist_utils", "_dist_setup", "_typed_config")


def read(reading: Reading) -> None:
    """Load the recipe's YAML as NeMo does, build what it builds before the model, and look for keys nobody reads."""
    loader = importlib.import_module(f"{_PACKAGE}.components.config.loader")
    data = copy.deepcopy(reading.request.data)
    targets = dict(_targets(reading, loader, data, ""))
    _unknown(reading, data, targets)
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
        if line.level in ("WARNING", "ERROR") and line.logger.startswith(_PACKAGE):
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
    if missing and missing != _PACKAGE:
        message = f"{target} needs the package {missing}, which is not here"
        reading.add(Complaint.UNCHECKED, key, message)
        return
    found, _ = failure(error, "targets", reading.roots)
    holder = importlib.import_module(module) if module else None
    closest = [f"{module}.{item}" for item in near(name, [item for item in dir(holder) if not item.startswith("_")])]
    message = f"{found.kind}: {found.message}"
    reading.add(Complaint.INVALID, key, message, raises=True, closest=closest if holder else (), where=found.where)


def _unknown(reading: Reading, data: dict[str, Any], targets: dict[str, Any]) -> None:
    root = next(root for root in reading.roots if Path(root, _PACKAGE).is_dir())
    recipe = _recipe_file(data, root)
    near_files = [recipe, *(f"{_RECIPES}/{name}.py" for name in _BESIDE)]
    for folder in ("cli", "_cli"):
        near_files += [str(file.relative_to(root)) for file in sorted(Path(root, _PACKAGE, folder).glob("*.py"))]
    direct = reads_of(root, near_files)
    every = reads_of(root, imported(root, near_files, _PACKAGE))
    reading.answer.known = len(direct.paths)
    config = set(reading.request.config)
    for key, value in data.items():
        if (
            key in direct.children("")
            or key in direct.words
            or any(key.startswith(start) for start in direct.starts if len(start) > 5)
        ):
            if isinstance(value, dict):
                _section(reading, key, value, targets, direct, every, config)
        else:
            closest = near(key, direct.children(""))
            _nobody(reading, key, f"nothing in {recipe} or what it imports of recipes reads it", closest, direct)


def _section(
    reading: Reading, place: str, data: dict[str, Any], targets: dict[str, Any], direct: Reads, every: Reads,
    config: set[str],
) -> None:  # fmt: skip
    target = targets.get(place)
    own, open_ = _parameters(target) if target is not None else (set(), True)
    extra = _strategy_keys(target) if place == "distributed" else set()
    if extra:
        # This version takes sizes and options of the section apart itself: its own functions are the list.
        own, open_, target = own | extra, False, None if target is None else target
    inside_model = place.split(".")[0] == "model"
    for key, value in data.items():
        path = f"{place}.{key}"
        if key == "_target_":
            continue
        known = key in own or path in direct.paths or bool(direct.children(path))
        if not known and open_:
            known = key in every.words or (inside_model and key in config)
        if not known and place == "distributed":
            known = key in direct.words
        if known:
            if isinstance(value, dict):
                _section(reading, path, value, targets, direct, every, config)
            continue
        candidates = own | direct.children(place) | (config if inside_model else set())
        closest = near(key, candidates) or (near(key, _public(every.words)) if open_ else [])
        if target is not None and not open_:
            name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', target)}"
            message = f"{name} takes no such argument, so building {place} raises TypeError"
            reading.add(Complaint.INVALID, path, message, raises=True, closest=closest, where=_defined(reading, target))
        elif closest or not open_:
            # A section without a class may be handed on whole: a key of it that is like no other says nothing.
            _nobody(reading, path, "nothing in the recipe's source reads it", closest, direct)


def _public(words: set[str]) -> set[str]:
    return {word for word in words if not word.startswith("_")}


def _nobody(reading: Reading, path: str, message: str, closest: list[str], direct: Reads) -> None:
    where = None
    place = path.rpartition(".")[0]
    if closest:
        full = f"{place}.{closest[0]}" if place else closest[0]
        if full in direct.paths:
            file, line = direct.paths[full]
            where = _line(reading, file, line)
    reading.add(Complaint.UNKNOWN, path, message, closest=closest, where=where)


def _line(reading: Reading, file: str, line: int) -> TrailLine | None:
    for root in reading.roots:
        if Path(root, file).is_file():
            return TrailLine(
                file, line, "", Path(root, file).read_text(encoding="utf-8").splitlines()[line - 1].strip()
            )
    return None


def _recipe_file(data: dict[str, Any], root: str) -> str:
    """The file of the recipe class that the YAML names; NeMo's finetuning recipe where it names none."""
    recipe = data.get("recipe")
    target = recipe.get("_target_") if isinstance(recipe, dict) else recipe
    if isinstance(target, str):
        name = target.rpartition(".")[2]
        for file in sorted(Path(root, _RECIPES).rglob("*.py")):
            if f"class {name}" in file.read_text(encoding="utf-8"):
                return str(file.relative_to(root))
    return _RECIPE


def _parameters(target: Any) -> tuple[set[str], bool]:
    """Names that a callable takes, and whether it takes any other name."""
    try:
        found = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return set(), True
    return {item.name for item in found}, any(item.kind is item.VAR_KEYWORD for item in found)


def _strategy_keys(target: Any) -> set[str]:
    """Keys of `distributed` where the recipe takes the section apart, {} where it builds the section's target."""
    parse = _function(("_dist_utils", "_dist_setup"), "parse_distributed_section")
    if parse is None:
        return set()
    file = Path(inspect.getsourcefile(parse) or "")
    words = reads_of(str(file.parent), [file.name]).words
    module = importlib.import_module(f"{_PACKAGE}.components.distributed.config")
    classes = [
        item for item in vars(module).values() if inspect.isclass(item) and hasattr(item, "__dataclass_fields__")
    ]
    return words | {name for item in classes for name in item.__dataclass_fields__}


def _function(modules: tuple[str, ...], name: str) -> Callable[..., Any] | None:
    for module in modules:
        full = f"{_PACKAGE}.recipes.{module}"
        if importlib.util.find_spec(full) is not None:
            return getattr(importlib.import_module(full), name, None)
    return None


def _defined(reading: Reading, target: Any) -> TrailLine | None:
    """The line that defines what a target names."""
    try:
        file, line = inspect.getsourcefile(target) or "", inspect.getsourcelines(target)[1]
    except (TypeError, OSError):
        return None
    for root in reading.roots:
        if file.startswith(f"{root}/"):
            lines = Path(file).read_text(encoding="utf-8").splitlines()
            while lines[line - 1].lstrip().startswith("@"):
                line += 1
            return _line(reading, str(Path(file).relative_to(root)), line)
    return None


def _sections(reading: Reading, root: Any) -> None:
    """Build every section that NeMo builds from the file alone: its typed views, and the LoRA config."""
    if importlib.util.find_spec(f"{_PACKAGE}.recipes._typed_config") is not None:
        recipe = importlib.import_module(f"{_PACKAGE}.recipes._typed_config").RecipeConfig
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
    setup = _function(("_dist_utils", "_dist_setup"), "create_distributed_setup_from_config") or _function(
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
    module = importlib.import_module(f"{_PACKAGE}.components.distributed.config")
    return set(getattr(module.FSDP2Config, "__dataclass_fields__", {}))


def _steps(reading: Reading, root: Any) -> None:
    """NeMo's step scheduler with the data-parallel size of the mesh: are the batch sizes divisible?"""
    mesh, section = reading.answer.mesh, reading.request.data.get("step_scheduler")
    if mesh is None or not isinstance(section, dict) or _complained(reading, "step_scheduler"):
        return
    dp = 1
    for axis, size in mesh.items():
        dp *= size if axis.startswith(("dp", "data")) else 1
    scheduler = importlib.import_module(f"{_PACKAGE}.components.training.step_scheduler").StepScheduler
    names = set(inspect.signature(scheduler).parameters)
    options = {key: value for key, value in root.step_scheduler.to_dict().items() if key in names}
    needed = {"dp_size": dp, "dataloader": [None] * 64, "local_batch_size": options.get("local_batch_size", 1)}
    options = {"ckpt_every_steps": 100, **options, **{key: value for key, value in needed.items() if key in names}}
    reading.shim("a list of 64 entries stands for the data loader of NeMo's StepScheduler")
    with reading.step(Complaint.LAYOUT, "step_scheduler"):
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
                    where = where or cite([root], f"{_PACKAGE}/components/distributed/pipelining/functional.py",
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
