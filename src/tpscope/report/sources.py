"""What stands in a framework's source and is no answer of a run: read, not imported, each with its line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tpscope.frameworks import overlay
from tpscope.frameworks.registry import Target
from tpscope.language.answer import TrailLine
from tpscope.language.evidence import sha256_of
from tpscope.report.rows import (
    APPLIED,
    BODY,
    HANDED,
    HF_NAME,
    HF_STYLE,
    MESH_AXES,
    REGISTERED,
    SETTING,
    STYLE,
    SYNCHRONIZED,
    TRANSLATED,
    VALIDATED,
    Cited,
    File,
    Provenance,
    SourceRow,
)

# Roots of all tensor-parallel styles: PyTorch's, and transformers' own.
_ROOTS = {
    "ParallelStyle", "ColwiseParallel", "RowwiseParallel", "SequenceParallel", "PrepareModuleInput",
    "PrepareModuleOutput", "PrepareModuleInputOutput", "TensorParallelLayer",
}  # fmt: skip
_HF_ENGINES = ("transformers/integrations/tensor_parallel.py", "transformers/distributed/tensor_parallel.py")
_REGISTRY = "PARALLELIZE_FUNCTIONS"
_SETTING_CLASSES = (
    ("nemo_automodel/components/distributed/fsdp2.py", "FSDP2Manager"),
    ("nemo_automodel/components/distributed/config.py", "FSDP2Config"),
    ("nemo_automodel/components/distributed/mesh.py", "ParallelismSizes"),
    ("axolotl/utils/schemas/config.py", "AxolotlInputConfig"),
)
# Single lines that no trace shows, looked for by a fragment: what, its name in the text, file, fragment.
_FRAGMENTS = (
    (HANDED, "the plan that is passed on", "axolotl/loaders/model.py", '["tp_plan"] = "auto"'),
    (SYNCHRONIZED, "between backward and optimizer step", "nemo_automodel/recipes/llm/train_ft.py",
     "synchronize_tp_replica_gradients(self"),
    (TRANSLATED, "between selection and application", "nemo_automodel/components/distributed/parallelizer.py",
     "translate_to_lora(v)"),
    (MESH_AXES, "axes", "nemo_automodel/components/distributed/fsdp2.py", "mesh_names = ("),
    (MESH_AXES, "axes", "nemo_automodel/components/distributed/mesh_utils.py", "shape=(pp_size, dp_replicate_size"),
    (APPLIED, "the selected plan", "nemo_automodel/components/distributed/parallelizer.py",
     "parallelize_module(model, tp_mesh, model_parallel_plan)"),
    (VALIDATED, "sizes against the number of ranks", "axolotl/utils/distributed.py",
     "The configured parallelisms are incompatible with the current world size"),
)  # fmt: skip
# The line in a style class that does what the class is for: class, fragment. Found wherever the class is defined.
_BODIES = {
    "SequenceParallelAllGatherActivation": "outputs.redistribute(",
    "RotaryEmbedParallel": "type(inputs)(new_inputs)",
    "Qwen3QKNorm": "DTensor.from_local(input_tensor, device_mesh, sequence_sharding",
}
# Fields that size an axis of the mesh, choose a plan, or turn a parallelism on.
_SETTING_NAME = re.compile(r"^((dp|tp|pp|cp|ep)_\w*size|\w+_parallel\w*|\w*tp_plan|dp_\w+|context_parallel\w*)$")


def source_row(target: Target, named: Iterable[str], made: Provenance) -> SourceRow:
    """Read the overlay of a target: its styles, its registry, its settings, and every file that the study names."""
    found = overlay.installed(target)
    assert found is not None, f"{target.id} has run, so it is installed"
    root = found.path
    own = root / target.family.module
    cited = [*own_styles(root, target.family.module), *_registry(root, own), *_settings(root), *_fragments(root)]
    cited += _bodies(root, [item for item in cited if item.what == STYLE])
    engines = [root / path for path in _HF_ENGINES if (root / path).is_file()]
    cited += _styles(root, engines, HF_STYLE)
    for engine in engines:
        cited += _style_names(root, engine)
    paths = sorted({*named, *(item.where.path for item in cited)})
    files = [File(path, _lines(root / path), sha256_of(root / path)) for path in paths if (root / path).is_file()]
    return SourceRow(target.id, made, cited, files, _planned_configs(root))


def own_styles(root: Path, module: str) -> list[Cited]:
    """The style classes that a framework's own package defines."""
    return _styles(root, (root / module).rglob("*.py"), STYLE)


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def _styles(root: Path, files: Iterable[Path], what: str) -> list[Cited]:
    """Classes that descend from a tensor-parallel style, wherever they are defined."""
    classes: list[tuple[Path, ast.ClassDef, str, set[str]]] = []
    for path in sorted(files):
        text = path.read_text(encoding="utf-8")
        if "class " not in text or "Parallel" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                classes.append((path, node, text, bases))
    known = set(_ROOTS)
    while more := {node.name for _, node, _, bases in classes if bases & known} - known:
        known |= more
    return [
        Cited(what, node.name, ", ".join(sorted(bases)), _line(root, path, node.lineno, text, node.name))
        for path, node, text, bases in classes
        if bases & known
    ]


def _bodies(root: Path, styles: Iterable[Cited]) -> Iterator[Cited]:
    """Of the style classes in the table above, the line inside each that holds its fragment."""
    for item in styles:
        if item.name not in _BODIES:
            continue
        path, fragment = root / item.where.path, _BODIES[item.name]
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and (node.name, node.lineno) == (item.name, item.where.line):
                inside = text.splitlines()[node.lineno - 1 : node.end_lineno]
                for number, content in enumerate(inside, node.lineno):
                    if fragment in content:
                        yield Cited(BODY, item.name, fragment, _line(root, path, number, text, node.name))


def _registry(root: Path, own: Path) -> Iterator[Cited]:
    """Entries of the table that maps model classes to plan functions."""
    for path in sorted(own.rglob("optimized_tp_plans.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == _REGISTRY:
                assert isinstance(node.value, ast.Dict)
                for key, value in zip(node.value.keys, node.value.values, strict=True):
                    assert key is not None
                    name = key.value if isinstance(key, ast.Constant) else ast.unparse(key)
                    where = _line(root, path, key.lineno, text, _REGISTRY)
                    yield Cited(REGISTERED, str(name), ast.unparse(value), where)


def _settings(root: Path) -> Iterator[Cited]:
    """Fields of the configuration classes that have to do with parallelism."""
    for relative, name in _SETTING_CLASSES:
        path = root / relative
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ClassDef) or node.name != name:
                continue
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and _SETTING_NAME.match(ast.unparse(item.target)):
                    where = _line(root, path, item.lineno, text, name)
                    yield Cited(SETTING, ast.unparse(item.target), ast.unparse(item.annotation), where)


def _fragments(root: Path) -> Iterator[Cited]:
    """The lines that hold the fragments above, in the files that this version has."""
    for what, name, relative, fragment in _FRAGMENTS:
        path = root / relative
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        for number, content in enumerate(text.splitlines(), 1):
            if fragment in content:
                yield Cited(what, name, fragment, _line(root, path, number, text, ""))
                break


def _style_names(root: Path, path: Path) -> Iterator[Cited]:
    """The strings that a plan of transformers may use, and the class behind each."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_global_mapping":
            for table in (item for item in ast.walk(node.value) if isinstance(item, ast.Dict)):
                for key, value in zip(table.keys, table.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Call):
                        where = _line(root, path, key.lineno, text, "_global_mapping")
                        yield Cited(HF_NAME, str(key.value), ast.unparse(value.func), where)


def _planned_configs(root: Path) -> list[str]:
    """Model folders of transformers whose configuration file defines a base_model_tp_plan that is not None."""
    found = set()
    for path in (root / "transformers" / "models").glob("*/configuration_*.py"):
        if re.search(r"^\s+base_model_tp_plan\s*(:[^=]+)?=\s*(?!None)", path.read_text(encoding="utf-8"), re.M):
            found.add(path.parent.name)
    return sorted(found)


def _line(root: Path, path: Path, number: int, text: str, symbol: str) -> TrailLine:
    return TrailLine(str(path.relative_to(root)), number, symbol, text.splitlines()[number - 1].strip())
