"""Each style class of a framework in plain PyTorch: itself, its counterparts, the same weights, inputs and ranks."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor.parallel import ParallelStyle

from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.experiments.style_cases import CASES, Counterpart, Scene, StyleCase, Styles
from tpscope.frameworks.inside.experiments.style_judge import against_whole, beside
from tpscope.frameworks.inside.experiments.style_ranks import Held, Left, sharded, whole
from tpscope.language.measured.port import Means, Outcome, Trial, Try

RANKS = 2
# An inner product of n terms is within n * eps of the exact one, relative to the sum of the terms' magnitudes (Higham,
# Accuracy and Stability of Numerical Algorithms, 3.1). No scene chains more than this many, forward and backward.
_CHAIN = 8


def answer(family: str, case: Case, options: dict[str, Any]) -> list[Trial]:
    """Try the classes that `options["styles"]` names, each with the file that defines it."""
    return [_trial(item["name"], item["path"], case.folder) for item in options["styles"]]


def _trial(name: str, path: str, scratch: Path) -> Trial:
    found = CASES.get(name)
    if found is None:
        return Trial(name, missing="tpscope has no scene for this class yet")
    try:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        text = type(found.made(module)).__name__
    except (ImportError, AttributeError) as error:
        return Trial(name, found.scene.said, missing=f"it cannot be made here: {error}")
    if found.shims:
        torch.cuda.synchronize = lambda device=None: None
    reference = whole(found.scene)
    _no_gradient_is_zero(reference)
    limit = tolerance(found.scene)
    own = sharded(found.scene, lambda: (found.made(module),), RANKS, scratch, found.after)
    seen = against_whole(own, reference, found.scene, limit)
    itself = Try(Means.STYLE, text, seen.outcome, seen.said, seen.error, notes=seen.notes)
    compared = [name for name in reference if not name.startswith("output 0 of")]
    tries = [] if seen.outcome == Outcome.RAISED else [_tried(found, one, own, limit, scratch) for one in found.tried]
    return Trial(name, found.scene.said, RANKS, limit, compared, itself, tries, list(found.shims))


def tolerance(scene: Scene) -> float:
    """How far two right answers may be apart, relative to the largest number of a tensor, in float64."""
    terms = max(item.numel() for item in [*scene.inputs(), *scene.module().parameters()])
    return float(_CHAIN * terms * torch.finfo(torch.float64).eps)


def _no_gradient_is_zero(reference: dict[str, Held]) -> None:
    """An all-zero gradient would be equal to anything that is zero by mistake."""
    for name, held in reference.items():
        if name.startswith("gradient"):
            assert held.local.abs().max() > 0, f"{name} of the scene is zero and would prove nothing"


def _tried(case: StyleCase, one: Counterpart, own: list[Left], limit: float, scratch: Path) -> Try:
    found = beside(own, sharded(case.scene, one.styles, RANKS, scratch), limit)
    made = Try(one.means, _text(one.styles()), found.outcome, found.said, found.error, notes=found.notes)
    if one.means == Means.PATCH:
        made.source = inspect.getsource(type(one.styles()[-1]))
        made.lines = counted(made.source)
    return made


def _text(styles: Styles) -> str:
    return ", then ".join(_printed(style) for style in styles) or "no style"


def _printed(style: ParallelStyle) -> str:
    """As PyTorch prints it; a class that does not print itself by its name."""
    return repr(style) if type(style).__repr__ is not object.__repr__ else f"{type(style).__name__}()"


def counted(source: str) -> int:
    """Lines of a class without its docstring and without empty lines."""
    text = textwrap.dedent(source)
    (tree,) = ast.parse(text).body
    assert isinstance(tree, ast.ClassDef)
    first = tree.body[0]
    documented = ast.get_docstring(tree) is not None
    doc = range(first.lineno, (first.end_lineno or first.lineno) + 1) if documented else range(0)
    return sum(bool(line.strip()) and number not in doc for number, line in enumerate(text.splitlines(), 1))
