"""The output as YAML: the user's comments, order and anchors, our comments beside what needs a look."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from pathlib import Path
from typing import Any

from tpscope.errors import UserError
from tpscope.migrate.job import Draft, Written
from tpscope.migrate.result import Field, Unknown, Verdict
from tpscope.migrate.rows import SECTIONS
from tpscope.migrate.source import OURS, Leaf, Source

_WIDTH = 110
_ASIDE = (Verdict.APPROXIMATED, Verdict.NEEDS_YOU)


def text_of(draft: Draft, source: Source, unknown: list[Unknown]) -> str:
    """The whole file."""
    from ruamel.yaml.comments import CommentedMap

    root = CommentedMap()
    written = _ordered(draft)
    told = _told(draft.fields)
    seen: set[int] = set()
    leaves = {leaf.path: leaf for leaf in source.leaves}
    parts_of: dict[str, list[Leaf]] = {}
    for field in draft.fields:
        if field.source in leaves:
            parts_of.setdefault(field.target.partition("[")[0], []).append(leaves[field.source])
    for item in written:
        *parents, name = item.path.split(".")
        node, depth = root, 0
        for part in parents:
            if not isinstance(node.get(part), CommentedMap):
                node[part] = CommentedMap()
            node, depth = node[part], depth + 1
        node[name] = _value(item.value)
        before = [] if item.leaf is None or id(item.leaf) in seen else list(item.leaf.before)
        for leaf in parts_of.get(item.path, ()):
            if leaf is not item.leaf and id(leaf) not in seen:
                before += [*leaf.before, *([leaf.beside] if leaf.beside else [])]
                seen.add(id(leaf))
        before += [line for said in told.get(item.path, ()) for line in _wrapped(said, 2 * depth)]
        if before:
            node.yaml_set_comment_before_after_key(name, before="\n".join(before), indent=2 * depth)
        if item.leaf is not None and item.leaf.beside and id(item.leaf) not in seen:
            node.yaml_add_eol_comment(item.leaf.beside, name)
        if item.leaf is not None:
            seen.add(id(item.leaf))
    return "".join([*_head(source), _dump(root), *_foot(draft, unknown)])


def _ordered(draft: Draft) -> list[Written]:
    """The user's order; what the input does not have stands behind the rest of its section.

    Files of both frameworks begin with what they are: a model, a recipe, and each section with its class.
    """
    places = {
        section: [item.order for item in draft.written.values() if item.section == section] for section in SECTIONS
    }
    last: dict[str, float] = {}
    latest = -1.0
    for section, orders in places.items():
        stated = [order for order in orders if order is not None]
        latest = last[section] = max(stated) + 0.5 if stated else latest

    def key(item: Written) -> tuple[bool, float]:
        first = item.path in ("base_model", "recipe")
        order = last.get(item.section, latest) if item.order is None else float(item.order)
        return not first, order

    found = sorted(draft.written.values(), key=key)
    # Stable: within a section its class comes first, and sections stay where their first value stands.
    tops = {name: index for index, name in reversed(list(enumerate(_top(item) for item in found)))}
    return sorted(found, key=lambda item: (tops[_top(item)], item.path != f"{_top(item)}._target_"))


def _top(item: Written) -> str:
    return item.path.partition(".")[0]


def _told(fields: list[Field]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for field in fields:
        if field.verdict in _ASIDE and field.target:
            said = f"{OURS} {field.verdict}: {field.reason}"
            if said not in found.setdefault(field.target.partition("[")[0], []):
                found[field.target.partition("[")[0]].append(said)
    return found


def _wrapped(text: str, indent: int) -> list[str]:
    # Each line says whose it is, so that a later migration leaves it out.
    return textwrap.wrap(text, max(60, _WIDTH - indent - 2), subsequent_indent=f"{OURS}   ")


def _head(source: Source) -> list[str]:
    return [f"# {line}".rstrip() + "\n" for line in source.head if not line.startswith(OURS)]


def _foot(draft: Draft, unknown: list[Unknown]) -> list[str]:
    """What has no place in the output: at its end, so that the file itself says what it lacks; like things once."""
    said: dict[tuple[Verdict, str], list[str]] = {}
    written = {path.partition(".")[0] for path in draft.written} | set(draft.written)
    for field in draft.fields:
        nowhere = not field.target or field.target.partition("[")[0] not in written
        if field.verdict in (Verdict.DROPPED, *_ASIDE) and nowhere:
            said.setdefault((field.verdict, field.reason), []).append(field.source)
    lines: list[str] = []
    for (verdict, reason), names in said.items():
        of = ", ".join(name for name in names if name)
        lines += _wrapped(f"{OURS} {verdict}: {of + ': ' if of else ''}{reason}", 0)
    for item in unknown:
        near = f", did you mean {' or '.join(item.closest)}?" if item.closest else ""
        lines += _wrapped(f"{OURS} unknown key, left out: {item.key}{near}", 0)
    return [f"# {line}\n" for line in lines]


def _value(value: Any) -> Any:
    """A value for ruamel: floats in a form that PyYAML takes for numbers."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq
    from ruamel.yaml.scalarfloat import ScalarFloat

    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, ScalarFloat):
        return _Float(float(value), value.anchor.value if value.anchor else None)
    if isinstance(value, float):
        return _Float(value)
    if isinstance(value, (CommentedMap, CommentedSeq)):
        for key, item in list(value.items() if isinstance(value, CommentedMap) else enumerate(value)):
            value[key] = _value(item)
        return value
    if isinstance(value, dict):
        return CommentedMap((key, _value(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        made = CommentedSeq(_value(item) for item in value)
        if not any(isinstance(item, (dict, list)) for item in value):
            made.fa.set_flow_style()
        return made
    return value


class _Float(float):
    """A float with the anchor that it has in the input."""

    def __new__(cls, value: float, anchor: str | None = None) -> _Float:
        made = super().__new__(cls, value)
        made.name = anchor
        return made

    name: str | None


def number_text(value: float) -> str:
    """A float as PyYAML reads one: with a point, and with a sign in the exponent (it takes 2e-4 for a string)."""
    if value != value or value in (float("inf"), float("-inf")):
        return {float("inf"): ".inf", float("-inf"): "-.inf"}.get(value, ".nan")
    text = repr(float(value))
    digits, e, exponent = text.partition("e")
    if not e:
        return text
    digits = digits if "." in digits else f"{digits}.0"
    return f"{digits}e{exponent if exponent[0] in '+-' else f'+{exponent}'}"


def _dump(root: Any) -> str:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLWarning

    yaml = YAML()
    yaml.width = 4096
    # The rules of YAML 1.1, which PyYAML follows: a string `on` must be quoted.
    yaml.version = (1, 1)
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        _Float,
        lambda dumper, data: dumper.represent_scalar("tag:yaml.org,2002:float", number_text(data), anchor=data.name),
    )
    yaml.representer.add_representer(
        type(None), lambda dumper, data: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", YAMLWarning)
        yaml.dump(root, stream)
    return stream.getvalue().removeprefix("%YAML 1.1\n").removeprefix("---\n")


def may(path: Path, force: bool) -> None:
    """Raises UserError where a file may not be written."""
    if path.is_dir():
        raise UserError(f"-o {path} is a directory; name a file in it")
    if path.exists() and not force:
        raise UserError(f"-o {path} is there already; name another file, or add --force to write over it")


def put(path: Path, text: str, force: bool) -> None:
    """Write the file, whole or not at all. Raises UserError where one is there already, or none can be."""
    may(path, force)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"-o {path} cannot be written ({error.strerror}); name another file") from error
    finally:
        partial.unlink(missing_ok=True)
