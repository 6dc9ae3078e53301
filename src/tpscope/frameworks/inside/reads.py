"""Which keys of a configuration a framework's source reads, found in its syntax tree."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

_HOLDERS = ("cfg", "config", "raw", "_raw", "node")


@dataclass
class Reads:
    """`paths`: dotted keys that are read off the configuration as a whole. `words`: every name that the source knows.

    `starts` are beginnings that keys are looked for by, as in `key.startswith("validation_dataset")`.
    """

    paths: dict[str, tuple[str, int]] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)
    starts: set[str] = field(default_factory=set)

    def children(self, prefix: str) -> set[str]:
        """The keys that are read directly below a path ("" for the top)."""
        start = f"{prefix}." if prefix else ""
        return {path[len(start) :].split(".")[0] for path in self.paths if path.startswith(start)}


def reads_of(root: str, files: list[str]) -> Reads:
    """What the given files (paths below `root`) read off a configuration."""
    found = Reads()
    for name in files:
        file = Path(root, name)
        if file.is_file():
            for node in ast.walk(_tree(file)):
                _note(found, node, name)
    return found


def imported(root: str, start: list[str], package: str) -> list[str]:
    """Files of a package that the given files import, directly or through one another, themselves included."""
    waiting, found = list(start), []
    while waiting:
        name = waiting.pop()
        if name in found or not Path(root, name).is_file():
            continue
        found.append(name)
        for node in ast.walk(_tree(Path(root, name))):
            modules = []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                if module.split(".")[0] == package:
                    path = module.replace(".", "/")
                    waiting += [f"{path}.py", f"{path}/__init__.py"]
    return found


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _note(found: Reads, node: ast.AST, name: str) -> None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 80:
        found.words.update(node.value.split("."))
    elif isinstance(node, ast.Attribute):
        found.words.add(node.attr)
        if path := _attribute(node):
            found.paths.setdefault(path, (name, node.lineno))
    elif isinstance(node, (ast.arg, ast.keyword)) and node.arg:
        found.words.add(node.arg)
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        found.words.add(node.target.id)
    elif isinstance(node, ast.FunctionDef):
        if any(isinstance(item, ast.Name) and "property" in item.id for item in node.decorator_list):
            found.words.add(node.name)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        first = node.args[0]
        if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
            return
        if node.func.attr in ("get", "pop", "instantiate_path") and _whole(node.func.value):
            found.paths.setdefault(first.value, (name, node.lineno))
        elif node.func.attr == "startswith":
            found.starts.add(first.value)


def _whole(node: ast.expr) -> bool:
    """True for the configuration itself: `cfg`, `self.cfg`, `self._raw`."""
    if isinstance(node, ast.Name):
        return node.id in _HOLDERS
    return isinstance(node, ast.Attribute) and node.attr in _HOLDERS and isinstance(node.value, ast.Name)


def _attribute(node: ast.Attribute) -> str:
    """`a.b` of `self.cfg.a.b`, "" for what hangs on something else or is a method of the configuration."""
    parts: list[str] = []
    item: ast.expr = node
    while isinstance(item, ast.Attribute) and not _whole(item):
        parts.append(item.attr)
        item = item.value
    methods = ("get", "to_dict", "to_yaml_dict", "instantiate", "pop", "items", "keys", "raw_config")
    if not parts or not _whole(item) or (isinstance(item, ast.Name) and item.id not in ("cfg", "config")):
        return ""
    kept = parts[::-1]
    while kept and kept[-1] in methods:
        kept.pop()
    return ".".join(kept)
