"""The rows of results/study.jsonl, all that the study's text is made from: one line a run, one line a framework.

Fields at their defaults are left out of the file, so that a line holds what was found and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tpscope.compare.result import Difference
from tpscope.language.answer import Failure, Head, LoraAnswer, Mesh, PlanRow, Selection, TrailLine, to_json
from tpscope.language.layout import Layout, Lora
from tpscope.language.verdict import Status

# What a Cited can be.
STYLE, HF_STYLE, HF_NAME = "style", "hf style", "hf style name"
REGISTERED, SETTING = "registered class", "setting"
HANDED, TRANSLATED = "handed over", "translated"
SYNCHRONIZED, MESH_AXES = "in the training loop", "mesh axes"
WRITTEN = "written plan"
APPLIED, VALIDATED, BODY = "applied", "validated", "what a style does"


@dataclass
class Group:
    """Parameters that differ only in the layer: values that are not the same in all layers are joined by ` / `."""

    name: str
    count: int
    shape: str
    placement: str
    local_shape: str
    gradient: str
    gradient_loop: str
    trainable: bool = True
    spelled: str = ""
    mesh: dict[str, str] = field(default_factory=dict)


@dataclass
class Column:
    """One framework's answer, cut down to what the study tells. Trails are cut too; `ran` counts the lines by file."""

    id: str
    status: Status = Status.OK
    error: Failure | None = None
    packages: dict[str, str] = field(default_factory=dict)
    outside_pin: list[dict[str, str]] = field(default_factory=list)
    model_class: str = ""
    selection: Selection = field(default_factory=Selection)
    ran: dict[str, int] = field(default_factory=dict)
    plan: list[PlanRow] = field(default_factory=list)
    parameters: list[Group] = field(default_factory=list)
    total_parameters: int = 0
    sharded_fraction: float = 0.0
    unmatched: list[str] = field(default_factory=list)
    ignored: list[dict[str, str]] = field(default_factory=list)
    head: Head = field(default_factory=Head)
    mesh: Mesh = field(default_factory=Mesh)
    lora: LoraAnswer = field(default_factory=LoraAnswer)
    collectives: dict[str, dict[str, int]] = field(default_factory=dict)
    observed: str = ""
    unobserved: str = ""
    not_run: dict[str, str] = field(default_factory=dict)
    loop_error: Failure | None = None
    gradient_trail: list[TrailLine] = field(default_factory=list)
    shims: list[str] = field(default_factory=list)


@dataclass
class Question:
    """What was asked: the model as it was published, the layout, and LoRA."""

    kind: str
    model: str
    layout: Layout
    architecture: str = ""
    source: str = ""
    status: str = ""
    lora: Lora | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Provenance:
    """How a row came to be. `hardware` is the machine that the frameworks' code ran on."""

    commit: str
    date: str
    hardware: dict[str, Any]


@dataclass
class RunRow:
    """One comparison."""

    command: str
    made: Provenance
    question: Question
    answers: list[Column]
    differences: list[Difference] = field(default_factory=list)
    row: str = "run"

    def column(self, identifier: str) -> Column | None:
        """The answer of one framework, or None if it was not asked."""
        return next((answer for answer in self.answers if answer.id == identifier), None)


@dataclass
class Cited:
    """Something that stands in a framework's source: `what` it is, its name, and the line that says so."""

    what: str
    name: str
    value: str
    where: TrailLine


@dataclass
class File:
    """A source file of which lines ran or are quoted: its length in lines and the sha256 of its bytes."""

    path: str
    lines: int
    sha256: str


@dataclass
class SourceRow:
    """What was read, not run, in the source of one framework and of the transformers that it brings."""

    framework: str
    made: Provenance
    cited: list[Cited] = field(default_factory=list)
    files: list[File] = field(default_factory=list)
    plans_of_configs: list[str] = field(default_factory=list)
    row: str = "source"


Row = RunRow | SourceRow
_READ: dict[str, TypeAdapter[Any]] = {"run": TypeAdapter(RunRow), "source": TypeAdapter(SourceRow)}


def line(row: Any) -> str:
    """A row as one line of JSON, defaults left out. Keys keep their order: axes of a mesh are named slowest first."""
    return json.dumps({"row": row.row, **_bare(row)}, ensure_ascii=False, separators=(",", ":"))


def read(text: str) -> list[Row]:
    """The rows of a file's text."""
    return [_READ[json.loads(item)["row"]].validate_json(item) for item in text.splitlines() if item]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write all rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(line(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def _bare(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: _bare(getattr(value, item.name))
            for item in fields(value)
            if getattr(value, item.name) != _default(item)
        }
    if isinstance(value, (list, tuple)):
        return [_bare(item) for item in value]
    return to_json(value)


def _default(item: Any) -> Any:
    if item.default is not MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not MISSING else MISSING
