"""Statements of a framework's own source, run under their own file name and line numbers without importing the rest of
their module (whose imports can be large, or need what a CPU does not have)."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from types import CodeType
from typing import Any


def function(path: Path, name: str) -> CodeType:
    """Compile one function definition of a file."""
    node = _definition(ast.parse(path.read_text(encoding="utf-8")), name)
    return compile(ast.Module([node], []), str(path), "exec")


def _definition(tree: ast.Module, name: str) -> ast.FunctionDef:
    return next(item for item in ast.walk(tree) if isinstance(item, ast.FunctionDef) and item.name == name)


def statements(path: Path, name: str, after: str, until: str) -> tuple[CodeType, dict[str, Any]]:
    """Compile the statements of a function that stand between the last one that calls `after` and the first that
    calls `until`, under their own file name and line numbers. Returns the code and the names that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    node = _definition(tree, name)
    calls = [{_called(call) for call in ast.walk(item) if isinstance(call, ast.Call)} for item in node.body]
    first = max(index for index, names in enumerate(calls) if after in names) + 1
    last = min(index for index, names in enumerate(calls) if until in names and index >= first)
    body = node.body[first:last]
    used = {item.id for part in body for item in ast.walk(part) if isinstance(item, ast.Name)}
    return _named(compile(ast.Module(body, []), str(path), "exec"), name), _imported(tree, used)


def condition(path: Path, name: str, fragment: str) -> CodeType:
    """Compile the smallest `if` statement of a function that holds a fragment of source."""
    text = path.read_text(encoding="utf-8")
    found = [
        node
        for node in ast.walk(_definition(ast.parse(text), name))
        if isinstance(node, ast.If) and fragment in (ast.get_source_segment(text, node) or "")
    ]
    smallest = min(found, key=lambda node: (node.end_lineno or 0) - node.lineno)
    return _named(compile(ast.Module([smallest], []), str(path), "exec"), name)


def holding(path: Path, name: str, fragment: str) -> CodeType:
    """Compile the statements of a function's body that hold a fragment of source, in their order."""
    text = path.read_text(encoding="utf-8")
    body = [
        node
        for node in _definition(ast.parse(text), name).body
        if fragment in (ast.get_source_segment(text, node) or "")
    ]
    return _named(compile(ast.Module(body, []), str(path), "exec"), name)


def _named(code: CodeType, name: str) -> CodeType:
    """The statements under the name of the function that they stand in, for tracebacks and trails."""
    return code.replace(co_name=name, co_qualname=name)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _imported(tree: ast.Module, used: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) in used:
                    found[alias.asname or alias.name] = getattr(importlib.import_module(node.module), alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name).split(".")[0] in used:
                    found[(alias.asname or alias.name).split(".")[0]] = importlib.import_module(alias.name)
    return found


def source_of(module: str) -> Path:
    """The file of a module of the framework, without importing it."""
    parts = module.split(".")
    for entry in sys.path:
        file = Path(entry, *parts).with_suffix(".py")
        if file.is_file():
            return file
    raise FileNotFoundError(module)
