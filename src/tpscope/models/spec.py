"""What INPUT comes down to: a model's published configuration, and what a training YAML asks for besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tpscope.language.layout import Layout, Lora


@dataclass(frozen=True)
class ModelSpec:
    """A model as it was published. Parameter names and shapes are the framework's business, not ours.

    `name` is short, for display. `source` says where the config came from, with its status where the catalog has one.
    `status` is confirmed or unconfirmed (catalog) or local. `remote_code` is the directory with the model's own
    Python files, given only where the user trusts them. `notes` holds what was changed or is worth knowing.
    """

    name: str
    architecture: str
    model_type: str
    config: dict[str, Any]
    source: str
    status: str
    remote_code: Path | None = None
    notes: tuple[str, ...] = ()


def architecture_of(config: dict[str, Any]) -> str:
    """The class that a config names first in `architectures`, "" where it names none."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""


@dataclass(frozen=True)
class Intent:
    """What a training YAML asks for besides the model. Without a YAML: the defaults, and `kind` is empty.

    Only what the file states is in here: `layout` holds 1 for every axis outside `stated`, which the framework
    derives from the number of ranks. `settings` keeps other keys that matter under tp in the framework's own spelling:
    Axolotl's top-level keys as they are, NeMo's as dotted paths to the leaves (`distributed.pipeline.pp_schedule`).
    `notes` says what was read in a way that is not obvious.
    """

    kind: str = ""
    path: Path | None = None
    layout: Layout = field(default_factory=Layout)
    stated: frozenset[str] = frozenset()
    lora: Lora | None = None
    sequence_parallel: bool | None = None
    custom_plan: str | None = None
    trust_remote_code: bool = False
    world: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """How a training YAML names its model: a path or hub id under `key`, or a config written `inline`.

    `overrides` are put over the config, whole or (`merged` ones) only where the config has the key already.
    """

    key: str
    text: str = ""
    revision: str | None = None
    inline: dict[str, Any] | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    merged: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
