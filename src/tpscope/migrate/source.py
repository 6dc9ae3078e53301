"""The input: its leaves with lines and comments, and the objects that keep anchors and styles alive."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tpscope.errors import UserError
from tpscope.models.files import text_of, yaml_of

NOTHING = ("", "none", "null", "~")
OURS = "tpscope:"
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Leaf:
    """One value of the input. `path` has indices of lists (`datasets.0.path`), `pattern` not (`datasets[].path`)."""

    path: str
    pattern: str
    value: Any
    line: int
    before: tuple[str, ...] = ()
    beside: str = ""


@dataclass
class Source:
    """A training YAML. `plain` is what the framework reads, `tree` the same with comments, styles and anchors."""

    file: str
    kind: str
    plain: dict[str, Any]
    tree: Any
    leaves: list[Leaf] = field(default_factory=list)
    repeated: tuple[str, ...] = ()
    head: tuple[str, ...] = ()

    def get(self, path: str) -> Any:
        """The plain value at a dotted path, None where nothing is stated there."""
        return stated(self.plain, path)

    def has(self, path: str) -> bool:
        """True if the file states something at a path."""
        return self.get(path) is not None

    def object(self, path: str) -> Any:
        """The value at a path with its style and anchor, as the output should have it; numbers as numbers."""
        said, kept = number(self.get(path)), _down(self.tree, path)
        return kept if isinstance(said, str) or not isinstance(kept, str) else said


def stated(data: Any, path: str) -> Any:
    """The value at a dotted path, None where it is absent, null or the word none."""
    value = _down(data, path)
    return None if isinstance(value, str) and value.strip().lower() in NOTHING else value


def _down(data: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        else:
            return None
    return data


def number(value: Any) -> Any:
    """A number that is written as a string (`2e-4`, which PyYAML takes for one), or the value itself."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value.strip()):
        return value
    text = value.strip().replace("_", "")
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def read(path: Path) -> Source:
    """The input. Raises UserError for what is no YAML mapping, or of neither framework, naming what told it."""
    document = yaml_of(path)
    plain = {str(key): value for key, value in document.data.items()}
    source = Source(str(path), kind_of(plain, str(path)), plain, _tree(path), repeated=document.repeated)
    comments = _comments(source.tree, text_of(path).splitlines())
    source.leaves = list(_leaves(source.tree, plain, comments))
    first = min((leaf.line for leaf in source.leaves), default=1)
    source.head = tuple(text for line, (text, alone) in sorted(comments.items()) if alone and line + 1 < first - 1)
    return source


def plain_of(text: str) -> dict[str, Any]:
    """What a framework's reader makes of our own output."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLWarning

    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", YAMLWarning)
        return yaml.load(text)


def kind_of(data: dict[str, Any], file: str) -> str:
    """Which framework a YAML is written for. Raises UserError where nothing, or both, tells."""
    model = data.get("model")
    nemo = isinstance(model, dict) and bool({"_target_", "pretrained_model_name_or_path", "config"} & set(model))
    if "base_model" in data and not nemo:
        return "axolotl"
    if nemo and "base_model" not in data:
        return "nemo"
    shown = ", ".join(list(data)[:8]) + (", ..." if len(data) > 8 else "")
    if nemo:
        raise UserError(f"{file} has both Axolotl's base_model and a NeMo recipe's model; keep the one that is meant")
    raise UserError(
        f"{file} is no training YAML of either framework: Axolotl's has base_model, a NeMo recipe has model with "
        f"_target_ or pretrained_model_name_or_path, and this one has {shown}; give one of those"
    )


def _tree(path: Path) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLWarning

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.allow_duplicate_keys = True
    yaml.version = (1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", YAMLWarning)
        return yaml.load(text_of(path))


def _leaves(
    node: Any, plain: Any, comments: dict[int, tuple[str, bool]], path: str = "", pattern: str = ""
) -> Iterator[Leaf]:
    """Leaves in the order of the file. A list is a leaf unless it holds mappings."""
    for key, value in node.items():
        name = str(key)
        here = f"{path}.{name}" if path else name
        there = f"{pattern}.{name}" if pattern else name
        line = node.lc.data[key][0] if key in (node.lc.data or {}) else 0
        # ruamel keeps the first of two equal keys, the frameworks the last: the plain value counts.
        said = plain.get(key, plain.get(name)) if isinstance(plain, dict) else value
        if isinstance(value, dict) and value and isinstance(said, dict):
            yield from _leaves(value, said, comments, here, there)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value) and isinstance(said, list):
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    yield from _leaves(item, said[index], comments, f"{here}.{index}", f"{there}[]")
                else:
                    yield Leaf(f"{here}.{index}", f"{there}[]", said[index], line + 1)
        else:
            before, beside = _around(line, comments)
            yield Leaf(here, there, said, line + 1, before, beside)


def _around(line: int, comments: dict[int, tuple[str, bool]]) -> tuple[tuple[str, ...], str]:
    """The comment lines directly above a line, and the comment beside it."""
    above: list[str] = []
    at = line - 1
    while at in comments and comments[at][1]:
        above.insert(0, comments[at][0])
        at -= 1
    beside = comments[line][0] if line in comments and not comments[line][1] else ""
    own = [text for text in above if not text.strip().startswith(OURS)]
    return tuple(own), "" if beside.strip().startswith(OURS) else beside.strip()


def _comments(tree: Any, lines: list[str]) -> dict[int, tuple[str, bool]]:
    """Every comment by its line: its text, and whether it stands there alone."""
    found: dict[int, tuple[str, bool]] = {}
    for token in _tokens(tree, set()):
        for offset, text in enumerate(token.value.split("\n")):
            if not text.strip().startswith("#"):
                continue
            # ruamel's marks are a line late where the comment follows a plain scalar: the file itself decides.
            near = token.start_mark.line + offset
            at = next((n for n in (near, near - 1, near + 1) if 0 <= n < len(lines) and text.strip() in lines[n]), None)
            if at is not None and at not in found:
                # One # and one blank are the comment's own; what is commented out keeps its indentation.
                found[at] = (text.strip()[1:].removeprefix(" "), lines[at].lstrip().startswith("#"))
    return found


def _tokens(node: Any, seen: set[int]) -> Iterator[Any]:
    if id(node) in seen:
        return
    seen.add(id(node))
    if hasattr(node, "ca"):
        yield from _flat([node.ca.comment, *node.ca.items.values(), getattr(node.ca, "end", None)])
    for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _tokens(item, seen)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    elif hasattr(value, "start_mark") and isinstance(getattr(value, "value", None), str):
        yield value
