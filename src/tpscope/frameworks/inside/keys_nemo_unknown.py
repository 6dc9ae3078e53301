"""Keys of a NeMo recipe that nothing of NeMo reads: known ones are the arguments of what `_target_` names, and what
the recipe's source reads off its configuration."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tpscope.frameworks.inside.keys import Reading, near
from tpscope.frameworks.inside.reads import Reads, imported, reads_of
from tpscope.language.answer import TrailLine
from tpscope.language.keys import Complaint

PACKAGE = "nemo_automodel"
_RECIPES = f"{PACKAGE}/recipes"
_RECIPE = f"{_RECIPES}/llm/train_ft.py"
_BESIDE = ("base_recipe", "_dist_utils", "_dist_setup", "_typed_config")


def unknown(reading: Reading, data: dict[str, Any], targets: dict[str, Any]) -> None:
    """Note every key that nothing reads, with the closest one that is read."""
    root = next(root for root in reading.roots if Path(root, PACKAGE).is_dir())
    recipe = _recipe_file(data, root)
    near_files = [recipe, *(f"{_RECIPES}/{name}.py" for name in _BESIDE)]
    for folder in ("cli", "_cli"):
        near_files += [str(file.relative_to(root)) for file in sorted(Path(root, PACKAGE, folder).glob("*.py"))]
    direct = reads_of(root, near_files)
    every = reads_of(root, imported(root, near_files, PACKAGE))
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
    if place == "optimizer":
        own = own | _optimizer_keys()
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
    parse = function(("_dist_utils", "_dist_setup"), "parse_distributed_section")
    if parse is None:
        return set()
    file = Path(inspect.getsourcefile(parse) or "")
    words = reads_of(str(file.parent), [file.name]).words
    module = importlib.import_module(f"{PACKAGE}.components.distributed.config")
    classes = [
        item for item in vars(module).values() if inspect.isclass(item) and hasattr(item, "__dataclass_fields__")
    ]
    return words | {name for item in classes for name in item.__dataclass_fields__}


def _optimizer_keys() -> set[str]:
    """Keys of `optimizer` that this version takes for itself before it calls what `_target_` names."""
    try:
        module = importlib.import_module(f"{PACKAGE}.components.optim.optimizer")
    except ImportError:
        return set()
    base = getattr(module, "OptimizerConfig", None)
    return set(getattr(base, "__dataclass_fields__", {}))


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


def function(modules: tuple[str, ...], name: str) -> Callable[..., Any] | None:
    """A function of the first of these recipe modules that this version has, None where it has none of them."""
    for module in modules:
        full = f"{PACKAGE}.recipes.{module}"
        if importlib.util.find_spec(full) is not None:
            return getattr(importlib.import_module(full), name, None)
    return None
