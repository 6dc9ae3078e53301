"""Configuration files: their text, JSON and YAML, with every way a file can be wrong said in one sentence."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpscope.errors import UserError

SIZE_LIMIT = 5_000_000
VALUE_LIMIT = 1_000_000


@dataclass(frozen=True)
class Document:
    """A YAML file that holds a mapping, and the keys that it writes twice (`key (line 3)`)."""

    data: dict[Any, Any]
    repeated: tuple[str, ...] = ()


def text_of(path: Path) -> str:
    """The text of a file. Raises UserError for no file, a directory, and what is binary, empty or too big."""
    try:
        if path.is_dir():
            raise UserError(f"{path} is a directory where a file is expected; name the file in it")
        if not path.exists():
            raise UserError(f"{path} does not exist; check the path")
        if not path.is_file():
            raise UserError(f"{path} is no regular file; give a config.json or a training YAML")
        if (size := path.stat().st_size) > SIZE_LIMIT:
            raise UserError(
                f"{path} has {size:,} bytes, and no configuration is bigger than {SIZE_LIMIT:,}; "
                "give the config.json or the training YAML itself"
            )
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it readable or give another file") from error
    if not data.strip():
        raise UserError(f"{path} is empty; give a config.json or a training YAML with content")
    if b"\0" in data:
        raise UserError(f"{path} is a binary file, not text; give a config.json or a training YAML")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte {error.start} is {data[error.start]:#04x}); "
            "give a config.json or a training YAML, saved as UTF-8"
        ) from error


def json_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError with file, line and column where it is none."""
    try:
        value = json.loads(text_of(path))
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise UserError(f"{place}: not valid JSON: {error.msg}; correct it there") from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: not a configuration: {_first_line(error)}; give a model's config.json") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {_kind(value)} where an object is expected; give a model's config.json")
    return value


def yaml_of(path: Path) -> Document:
    """The mapping in a YAML file, by the rules of YAML 1.1 that both frameworks' reader (PyYAML) follows.

    Raises UserError with file, line and column where it is none, and where anchors make it endless or huge.
    """
    value, repeated = _load(path, text_of(path))
    if value is None:
        raise UserError(f"{path} holds nothing but comments; give a training YAML with content")
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a YAML {_kind(value)} where a mapping is expected; give a training YAML")
    _refuse_endless(value, path)
    return Document(value, tuple(repeated))


def _load(path: Path, text: str) -> tuple[Any, list[str]]:
    # ruamel.yaml takes 80 ms to import, which every command would pay for.
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning

    repeated: list[str] = []

    class LastWins(SafeConstructor):
        def check_mapping_key(self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any) -> bool:
            if key in mapping:
                repeated.append(f"{key} (line {key_node.start_mark.line + 1})")
            return True

    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = LastWins
    yaml.version = (1, 1)
    try:
        with warnings.catch_warnings():
            # PyYAML says nothing of a reused anchor or of 1e-5 either.
            warnings.simplefilter("ignore", YAMLWarning)
            return yaml.load(text), repeated
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = " ".join(", ".join(filter(None, (error.context, error.problem))).split())
        raise UserError(f"{place}: not valid YAML: {problem}; correct it there") from error
    except (YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: not valid YAML: {_first_line(error)}; correct it") from error
    except (LookupError, AttributeError, TypeError) as error:
        # So end ruamel's constructors for a value like `!!bool maybe`.
        raise UserError(
            f"{path}: not valid YAML: a value does not fit the tag (!!...) before it; correct it"
        ) from error


def _refuse_endless(value: Any, path: Path) -> None:
    """Aliases make a YAML value a graph: refuse cycles, and trees that are huge once written out."""
    counted: dict[int, int] = {}
    open_now: set[int] = set()

    def count(item: Any) -> int:
        if not isinstance(item, (dict, list)):
            return 1
        if id(item) in counted:
            return counted[id(item)]
        if id(item) in open_now:
            raise UserError(f"{path} has an anchor that contains itself, so it never ends; take the alias out of it")
        open_now.add(id(item))
        total = 1 + sum(count(child) for child in (item.values() if isinstance(item, dict) else item))
        open_now.discard(id(item))
        counted[id(item)] = total
        return total

    if (total := count(value)) > VALUE_LIMIT:
        raise UserError(f"{path} unfolds to {total:,} values through its anchors; write out what is meant")


def _kind(value: Any) -> str:
    return {list: "list", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _first_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
