"""Somebody's plan as rules with their lines: our YAML, a transformers dict in JSON or Python, a NeMo or torch file.

Python is read, never run: a plan is a dict display whose keys are texts and whose values are texts or calls of style
classes, assigned to a name or returned by a function.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tpscope.errors import UserError
from tpscope.plan import files
from tpscope.plan.result import Given, Kind, Source, Spelled

# Names of styles in transformers (distributed/tensor_parallel.py, 4.5x to 5.23).
_WORDS = {
    "colwise": Kind.COLUMN, "local_colwise": Kind.COLUMN, "rowwise": Kind.ROW, "local_rowwise": Kind.ROW,
    "packed_colwise": Kind.PACKED, "local_packed_rowwise": Kind.PACKED_ROW, "packed_rowwise": Kind.PACKED_ROW,
    "colwise_rep": Kind.GATHERED, "colwise_gather_output": Kind.GATHERED, "rowwise_rep": Kind.SPLIT,
    "rowwise_split_input": Kind.SPLIT, "embedding_rowwise": Kind.LOOKUP, "moe_tp_experts": Kind.EXPERTS,
    "replicated_with_grad_allreduce": Kind.SUM, "sequence_parallel": Kind.SEQUENCE, "replicate": Kind.WHOLE,
    "local_params": Kind.WHOLE,
}  # fmt: skip
# Style classes of torch and NeMo.
_CLASSES = {
    "ColwiseParallel": Kind.COLUMN, "RowwiseParallel": Kind.ROW, "SequenceParallel": Kind.SEQUENCE,
    "VocabParallelEmbedding": Kind.LOOKUP, "ReplicatedWithGradAllReduce": Kind.SUM,
    "SequenceParallelAllGatherActivation": Kind.SEQUENCE,
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A plan file that was read. `form` is tpscope, transformers or torch. `regions`: where ours begin, by exit."""

    given: Given
    form: str
    path: Path
    lines: dict[str, int]


def read(text: str, source: Source = Source.CUSTOM) -> Written:
    """The plan that `path` or `path.py:name` names. Raises UserError where it is none."""
    place, name = _place(text)
    path = Path(place).expanduser()
    if not path.is_file():
        raise UserError(f"{text}: there is no file {place}; name a plan as plan.yaml, plan.json or plan.py:NAME")
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{place} cannot be read as text ({error}); name a plan file") from error
    if path.suffix.lower() in (".yaml", ".yml"):
        plan = files.read(content, place)
        return Written(Given(source, place, plan), "tpscope", path, _yaml_lines(content))
    rules = tuple(_json(content, place) if path.suffix.lower() == ".json" else _python(content, place, name))
    if not rules:
        raise UserError(f"{place} has no rule in its plan; write module patterns and styles")
    form = "transformers" if all("(" not in rule.text for rule in rules) else "torch"
    return Written(Given(source, text, rules=rules), form, path, {rule.pattern: rule.line for rule in rules})


def _place(text: str) -> tuple[str, str]:
    head, colon, name = text.rpartition(":")
    return (head, name) if colon and name.isidentifier() and head.endswith(".py") else (text, "")


def spelled(pattern: str, word: str, line: int = 0) -> Spelled:
    """A rule of transformers, by the name of its style."""
    return Spelled(pattern, _WORDS.get(word, Kind.UNKNOWN), word, line)


def _yaml_lines(content: str) -> dict[str, int]:
    """Where names stand in a YAML of ours, first mention each."""
    found: dict[str, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        for name in re.findall(r"[A-Za-z_][\w*.]*", line.partition("#")[0]):
            found.setdefault(name, number)
        # A parameter's own line says more than the one of the region it lies in.
        if match := re.match(r"\s+([\w*.]+): \{", line):
            found[match[1]] = number
    return found


def _json(content: str, place: str) -> Iterator[Spelled]:
    try:
        tree = json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}:{error.lineno}: no JSON ({error.msg}); mend it") from error
    inner = next(
        (tree[key] for key in ("tp_plan", "base_model_tp_plan") if isinstance(tree, dict) and key in tree), tree
    )
    if not isinstance(inner, dict):
        raise UserError(f"{place} is no JSON object of module patterns and styles; write one")
    for pattern, word in inner.items():
        quoted = json.dumps(pattern)
        line = next((i for i, text in enumerate(content.splitlines(), 1) if quoted in text), 1)
        yield spelled(pattern, str(word), line)


def _python(content: str, place: str, name: str) -> Iterator[Spelled]:
    try:
        module = ast.parse(content)
    except SyntaxError as error:
        raise UserError(f"{place}:{error.lineno}: no Python ({error.msg}); mend it") from error
    shown = _display(module, name)
    if shown is None:
        what = f"a dict called {name}" if name else "a dict of module patterns and styles"
        raise UserError(f"{place} has no {what} that can be read without running it; write {{'layers.*.x': ...}}")
    for key, value in zip(shown.keys, shown.values, strict=True):
        if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
            line = key.lineno if key is not None else value.lineno
            raise UserError(f"{place}:{line}: a key is computed and the plan is read, not run; write it out")
        yield _style(key.value, value, key.lineno)


def _display(module: ast.Module, name: str) -> ast.Dict | None:
    """The dict that is assigned to a name, or returned by a function of that name; without a name the largest one."""
    found: list[tuple[str, ast.Dict]] = []
    for node in ast.walk(module):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [(target.id, node.value) for target in targets if isinstance(target, ast.Name)]
        if isinstance(node, ast.FunctionDef):
            inner = [part.value for part in ast.walk(node) if isinstance(part, ast.Return | ast.Assign)]
            found += [(node.name, value) for value in inner if isinstance(value, ast.Dict)]
    wanted = [shown for called, shown in found if not name or called == name]
    return max(wanted, key=lambda shown: len(shown.keys), default=None)


def _style(pattern: str, value: ast.expr, line: int) -> Spelled:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return spelled(pattern, value.value, line)
    text = ast.unparse(value)
    if not isinstance(value, ast.Call):
        return Spelled(pattern, Kind.UNKNOWN, text, line)
    called = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
    kind = _CLASSES.get(called, Kind.UNKNOWN)
    options = {word.arg: ast.unparse(word.value) for word in value.keywords if word.arg}
    if kind is Kind.COLUMN and options.get("output_layouts", "").startswith("Replicate"):
        kind = Kind.GATHERED
    if kind is Kind.ROW and options.get("input_layouts", "").startswith("Replicate"):
        kind = Kind.SPLIT
    gathers = kind in (Kind.COLUMN, Kind.GATHERED) and _sequence(options.get("input_layouts", ""))
    return Spelled(pattern, kind, text, line, gathers)


def _sequence(layout: str) -> bool:
    return re.match(r"Shard\((dim=)?1\)", layout) is not None
