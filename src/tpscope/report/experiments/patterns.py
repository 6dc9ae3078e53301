"""Patterns of design in the functions that chose and applied a plan, read from their syntax: nothing here names a
framework's function or table."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tpscope.language.answer import TrailLine
from tpscope.report.experiments.complexity_rows import CASCADE, LOOKUP, STRATEGY, TABLE, Pattern

# A table of fewer entries, or a cascade of fewer conditions, is an ordinary statement.
LEAST = 3
_GIVEN = (ast.Name, ast.Attribute, ast.Call)
# What a cascade or a class must speak of to have to do with the choice or the application of a plan.
_TELLING = re.compile(r"plan|parallel|shard|\btp|_tp|mesh")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def patterns(root: Path, lines: Mapping[str, set[int]]) -> list[Pattern]:
    """The patterns in these files, as far as these lines of them ran: whole tables and classes that they use."""
    found: list[Pattern] = []
    for path, ran in sorted(lines.items()):
        text = (root / path).read_text(encoding="utf-8")
        tree, source = ast.parse(text), text.splitlines()
        entered = [node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS) and _ran(node, ran)]
        for what, name, size, line in (
            *_tables(tree), *_cascades(entered, ran), *_strategies(tree, entered), *_lookups(entered, ran)
        ):  # fmt: skip
            found.append(Pattern(what, name, size, TrailLine(path, line, "", source[line - 1].strip())))
    used = _names_used(root, lines)
    return [one for one in found if one.what != TABLE or one.name in used]


_Found = tuple[str, str, str, int]


def _ran(node: ast.FunctionDef | ast.AsyncFunctionDef, ran: set[int]) -> bool:
    return any(node.body[0].lineno <= line <= (node.end_lineno or 0) for line in ran)


def _tables(tree: ast.Module) -> Iterator[_Found]:
    """Dictionaries of a module, or of a class in it, that give a function, a class or an instance for a key."""
    owners: list[ast.Module | ast.ClassDef] = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for owner in owners:
        for node in owner.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                values = next((item.values for item in ast.walk(node.value) if isinstance(item, ast.Dict)), [])
                if len(values) >= LEAST and all(isinstance(value, _GIVEN) for value in values):
                    name = getattr(owner, "name", "") or ast.unparse(target)
                    yield TABLE, name, f"{len(values)} entries", node.lineno


def _cascades(entered: list[ast.FunctionDef | ast.AsyncFunctionDef], ran: set[int]) -> Iterator[_Found]:
    """The longest chain of if and elif of every function, if it ran."""
    for node in entered:
        nested = {id(item.orelse[0]) for item in ast.walk(node) if isinstance(item, ast.If) and _elif(item)}
        chains = [item for item in ast.walk(node) if isinstance(item, ast.If) and id(item) not in nested]
        longest = max(chains, key=_length, default=None)
        if longest is not None and _length(longest) >= LEAST and longest.lineno in ran and _telling(longest):
            last = longest
            while _elif(last):
                assert isinstance(last.orelse[0], ast.If)
                last = last.orelse[0]
            end = " and an else" if last.orelse else ""
            yield CASCADE, node.name, f"{_length(longest)} conditions{end}", longest.lineno


def _telling(node: ast.AST) -> bool:
    return _TELLING.search(ast.unparse(node)) is not None


def _elif(node: ast.If) -> bool:
    return len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)


def _length(node: ast.If) -> int:
    first = node.orelse[0] if _elif(node) else None
    return 1 + (_length(first) if isinstance(first, ast.If) else 0)


def _strategies(tree: ast.Module, entered: list[ast.FunctionDef | ast.AsyncFunctionDef]) -> Iterator[_Found]:
    """A class with two or more classes of the same file that replace one of its methods, where one of these ran."""
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    ran = {id(node) for node in entered}
    for base in classes.values():
        methods = {item.name for item in base.body if isinstance(item, _FUNCTIONS) and not item.name.startswith("__")}
        heirs = [node for node in classes.values() if base.name in {ast.unparse(item) for item in node.bases}]
        replaced = [
            node for node in heirs if any(isinstance(item, _FUNCTIONS) and item.name in methods for item in node.body)
        ]
        took_part = any(id(item) in ran for node in [base, *replaced] for item in ast.walk(node))
        if len(replaced) > 1 and took_part and _telling(base):
            yield STRATEGY, base.name, f"{len(replaced)} classes replace its methods", base.lineno


def _lookups(entered: list[ast.FunctionDef | ast.AsyncFunctionDef], ran: set[int]) -> Iterator[_Found]:
    """The first line of every function that ran and asks an object for a plan by name."""
    for node in entered:
        for item in sorted((one for one in ast.walk(node) if isinstance(one, ast.Call)), key=lambda one: one.lineno):
            name = item.func.attr if isinstance(item.func, ast.Attribute) else getattr(item.func, "id", "")
            asked = [one.value for one in item.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            if name in ("getattr", "get") and item.lineno in ran and any("tp_plan" in word for word in asked):
                yield LOOKUP, node.name, f"{name} of {asked[0]!r}", item.lineno
                break


def _names_used(root: Path, lines: Mapping[str, set[int]]) -> set[str]:
    """Every name that stands in a line that ran, and the class of what a module holds under such a name."""
    found: set[str] = set()
    made: dict[str, str] = {}
    for path, ran in lines.items():
        tree = ast.parse((root / path).read_text(encoding="utf-8"))
        found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node.lineno in ran}
        for node in tree.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                made[ast.unparse(target)] = ast.unparse(node.value.func)
    return found | {kind for name, kind in made.items() if name in found}
