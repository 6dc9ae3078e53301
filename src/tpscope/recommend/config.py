"""The training YAML of a candidate: complete, in the framework's own keys, for the version that is asked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from tpscope.frameworks.registry import Target
from tpscope.frameworks.runner import Environment as Place
from tpscope.language.layout import Layout, Lora
from tpscope.models.spec import ModelSpec

# YAML reads these bare; anything else is written as a JSON string, which is YAML too.
_BARE = re.compile(r"[A-Za-z./][\w./-]*")
WRITTEN = ("nemo", "axolotl")


@dataclass(frozen=True)
class Settings:
    """What a config sets beside its model and layout. `clip`: largest gradient norm, None for no clipping."""

    accumulation: int = 2
    clip: float | None = 1.0
    lora: Lora | None = None


def written(
    target: Target, place: Place, spec: ModelSpec, reference: str, layout: Layout, settings: Settings
) -> str:  # fmt: skip
    """The YAML. `place` is what the target runs in: which of NeMo's spellings a version has stands in its sources."""
    return (
        _templates()
        .get_template(f"{target.family.name}.yaml")
        .render(
            target=target.id,
            model=spec.name,
            reference=_text(reference),
            layout=layout,
            settings=settings,
            remote=spec.remote_code is not None,
            variant=target.variant,
            typed=_has(place, "components/distributed/config.py"),
            views=_has(place, "recipes/_typed_config.py"),
        )
    )


def clips(target: Target, place: Place) -> bool:
    """True if a version reads the key that a config sets clipping by. NeMo's loop is read for it; 0.2 never clips."""
    if target.family.name != "nemo":
        return True
    loops = [root / "nemo_automodel" / "recipes" / "llm" / "train_ft.py" for root in place.roots]
    return any("clip_grad_norm.max_norm" in file.read_text(encoding="utf-8") for file in loops if file.is_file())


def optional(target: Target) -> tuple[str, ...]:
    """Settings that a config can do without. NeMo clips at 1.0 where nothing is said, so there it stays."""
    return ("accumulate",) if target.family.name == "nemo" else ("accumulate", "clip")


def _has(place: Place, module: str) -> bool:
    """True if this version of NeMo AutoModel has a module."""
    return any((root / "nemo_automodel" / module).is_file() for root in place.roots)


def _text(value: str) -> str:
    return value if _BARE.fullmatch(value) else json.dumps(value)


@cache
def _templates() -> Environment:
    loader = PackageLoader("tpscope.recommend", "templates")
    found = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=False,
    )  # fmt: skip
    found.filters["text"] = _text
    return found
