"""What the user wants of a check, and the framework's own reading of the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpscope.errors import UserError
from tpscope.frameworks import reading, registry
from tpscope.frameworks.registry import Target
from tpscope.frameworks.targets import environment, resolve
from tpscope.language.keys import KeysAnswer, KeysRequest

Say = Callable[[str, str], None]
DEFAULT = {"nemo": "nemo@0.7.0", "axolotl": "axolotl@0.19.0"}


@dataclass
class Asked:
    """What the user wants of a check."""

    path: Path
    world: int | None = None
    with_: str | None = None
    python: Path | None = None
    prove: bool = True
    fresh: bool = False
    trust_remote_code: bool = False


def target_of(asked: Asked, kind: str) -> Target:
    """The version to check under. Raises UserError where it is one of another framework than the file's."""
    targets = resolve([asked.with_] if asked.with_ else ([] if asked.python else [DEFAULT[kind]]), asked.python)
    fitting = [target for target in targets if target.family.name == kind]
    if not fitting:
        title = registry.family(kind).title
        names = ", ".join(target.id for target in targets)
        raise UserError(f"{asked.path} is written for {title}, and --with names {names}; write --with {DEFAULT[kind]}")
    return fitting[0]


def reading_of(asked: Asked, target: Target, data: Any, config: dict[str, Any], world: int, say: Say) -> KeysAnswer:
    """What the framework says of the file before it builds a model."""
    where = environment(target, lambda text: say("install", text))
    plain = json.loads(json.dumps(data, default=str))
    say("run", f"{target.id} reading {asked.path.name}")
    answer = reading.read(KeysRequest(target.id, plain, config, world), target, where, asked.fresh)
    say("done", f"{target.id} reading {asked.path.name}")
    return answer


def command(asked: Asked, target: Target) -> str:
    """The command that asks the same again."""
    words = ["tpscope check", str(asked.path)]
    if asked.world:
        words.append(f"--world {asked.world}")
    words.append(
        f"--with {asked.with_ or target.id}" if not asked.python or asked.with_ else f"--python {asked.python}"
    )
    return " ".join(words)
