"""Plans of the families that people train most, written by `tpscope plan`, reviewed, and kept with what proved them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from tpscope.plan import files
from tpscope.plan.result import Given, Source

_HOME = Path(__file__).parent


def names() -> list[str]:
    """Model types that have a plan here."""
    return sorted(path.stem for path in _HOME.glob("*.yaml"))


def find(model_type: str) -> Given | None:
    """The plan of a model type, None where there is none. It is proven again before it is taken."""
    if model_type not in names():
        return None
    text = (_HOME / f"{model_type}.yaml").read_text(encoding="utf-8")
    origin = f"plan/curated/{model_type}.yaml"
    if said := re.search(r"commit (\w+)", text):
        origin += f", first proven at {said[1]}"
    return Given(Source.CURATED, origin, replace(files.read(text, origin)))
