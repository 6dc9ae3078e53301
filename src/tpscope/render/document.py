"""Results as JSON documents and their schemas. Files are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console

from tpscope.check.result import Check
from tpscope.compare.result import Comparison
from tpscope.errors import UserError
from tpscope.language.answer import to_json
from tpscope.migrate.result import Migration
from tpscope.plan.result import Derived, Review
from tpscope.price.check import Accuracies
from tpscope.price.matrix import Matrix
from tpscope.price.result import Prices
from tpscope.prove.result import Proofs
from tpscope.prove.selftest import SelfTest
from tpscope.recommend.result import Recommendation

RESULTS: dict[str, type] = {
    "compare": Comparison, "prove": Proofs, "check": Check, "selftest": SelfTest, "recommend": Recommendation,
    "migrate": Migration,
    "plan": Derived, "plan-check": Review,
    "price": Prices, "price-check": Accuracies, "price-matrix": Matrix,
}  # fmt: skip


def document(result: Any) -> str:
    """A result as a JSON document with its `schema` field first."""
    tree = _finite(to_json(result))
    return json.dumps({"schema": tree.pop("schema"), **tree}, indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    """JSON has neither infinity nor NaN: they are null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def schema(name: str) -> str:
    """The JSON Schema of a result type, for docs/schema."""
    return json.dumps(TypeAdapter(RESULTS[name]).json_schema(), indent=1, sort_keys=True) + "\n"


def deliver(
    result: Any, json_: str | None, show: Callable[[Console], None], files: Mapping[str, str] | None = None
) -> None:
    """Write the JSON document and other `files` (text by name), show the result, and say what was written. A document
    that goes to standard output (`-`) stands there alone."""
    texts = {**({json_: document(result)} if json_ else {}), **(files or {})}
    for name, text in texts.items():
        write(name, text)
    if "-" in texts:
        return
    console = Console()
    show(console)
    for name in texts:
        console.print(f"written: {name}", style="dim", highlight=False)


def write(target: str, text: str) -> None:
    """Write a text to a file, or to standard output for `-`. Raises UserError where that cannot be done."""
    if target == "-":
        sys.stdout.write(text + "\n")
        return
    write_all({Path(target): text})


def write_all(texts: Mapping[Path, str]) -> None:
    """Write several files, all of them or none: none is put in place before all are written. Raises UserError."""
    partials: dict[Path, Path] = {}
    path = Path()
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            partials[path] = path.with_name(f".{path.name}.{os.getpid()}")
            partials[path].write_text(text, encoding="utf-8")
        for path, partial in partials.items():
            partial.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another file") from error
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
