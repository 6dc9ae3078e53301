"""What the choice of a plan costs."""

from __future__ import annotations

from typing import Any

from tpscope.frameworks.inside.case import Case


def answer(family: str, case: Case, options: dict[str, Any]) -> dict[str, Any]:
    """To be."""
    return {"family": family, "options": options, "config": case.request.config["model_type"]}
