"""The branches of the functions that ran, from the syntax tree of their files, and which ways of each were taken."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tpscope.frameworks.inside.experiments.watch import Steps

_KINDS = {ast.If: "if", ast.For: "loop", ast.While: "loop", ast.Try: "try", ast.Match: "match"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Branch:
    """One statement that can go two ways: into its body (`taken`) and past it (`passed`); for a `try`: into a handler,
    and past all. `reached`: it was asked at all."""

    path: str
    line: int
    kind: str
    reached: bool
    taken: bool
    passed: bool


def branches(steps: Steps) -> list[Branch]:
    """Every branch of every function that was entered, nested functions counted for themselves."""
    found = []
    for path, file in sorted(steps.files.items()):
        moves = steps.moves.get(path, set())
        for node, whole in _entered(file, steps.functions.get(path, set())):
            for branch in _own(node):
                one = _branch(path, branch, moves)
                # Of a function of which single statements were run, only those count.
                if whole or one.reached:
                    found.append(one)
    return list({(one.path, one.line, one.kind): one for one in found}.values())


def _entered(file: Path, entered: set[tuple[int, str]]) -> Iterator[tuple[ast.AST, bool]]:
    names = {name for _, name in entered}
    starts = {line for line, _ in entered}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, _FUNCTIONS):
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            if first in starts or node.lineno in starts:
                yield node, True
            elif node.name in names and (1, node.name) in entered:
                yield node, False


def _own(node: ast.AST) -> Iterator[ast.If | ast.For | ast.While | ast.Try | ast.Match]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(child, (ast.If, ast.For, ast.While, ast.Try, ast.Match)):
            yield child
        yield from _own(child)


def _branch(
    path: str, node: ast.If | ast.For | ast.While | ast.Try | ast.Match, moves: set[tuple[int, int]]
) -> Branch:  # fmt: skip
    kind = _KINDS[type(node)]
    reached = {to for _, to in moves}
    if isinstance(node, ast.Try):
        inside = any(node.body[0].lineno <= line <= (node.body[-1].end_lineno or 0) for line in reached)
        caught = any(handler.lineno in reached for handler in node.handlers)
        return Branch(path, node.lineno, kind, inside, caught, inside and not caught)
    if isinstance(node, ast.Match):
        cases = [case.body[0].lineno in reached for case in node.cases]
        return Branch(path, node.lineno, kind, node.lineno in reached, any(cases), sum(cases) > 1)
    head = node.iter if isinstance(node, ast.For) else node.test
    test = range(node.lineno, (head.end_lineno or node.lineno) + 1)
    body = range(node.body[0].lineno, (node.body[-1].end_lineno or 0) + 1)
    away = [to for come, to in moves if come in test and to not in test]
    taken = any(to in body for to in away)
    return Branch(
        path, node.lineno, kind, any(line in test for line in reached), taken, any(to not in body for to in away)
    )  # fmt: skip
