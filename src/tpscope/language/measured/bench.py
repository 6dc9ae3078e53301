"""Rows of bench: which of them counts where a case was measured more than once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def counted(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a case, in the order of the first: the one with most undisturbed repeats, of equals the newest. A row
    with an error counts where no other is there. Nothing that was predicted has a part in it."""
    return [max(reversed(same), key=_quality) for same in alike(rows)]


def alike(rows: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows of the same case together, newest last; those of one day in the order they were written."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(_case(row), []).append(row)
    return [sorted(same, key=lambda row: str(row.get("date", ""))) for same in found.values()]


def undisturbed(row: dict[str, Any]) -> int:
    """Repeats on cores that were the rank's own; none where bench did not look yet."""
    said, times = row.get("disturbed"), row.get("milliseconds")
    return int(times["repeats"] + said["left_out"] - said["repeats"]) if said and times else 0


def _quality(row: dict[str, Any]) -> tuple[bool, int, str]:
    return row.get("milliseconds") is not None, undisturbed(row), str(row.get("date", ""))


def _case(row: dict[str, Any]) -> tuple[Any, ...]:
    layout = row.get("layout", {})
    return (
        row.get("framework"), row.get("stands_for"), row.get("model"), layout.get("tp"),
        bool(layout.get("sequence_parallel")), row.get("batch"), row.get("sequence"), bool(row.get("compiled")),
        row.get("scope"), _loss(row), row.get("hardware"), bool(row.get("rehearsal")),
    )  # fmt: skip


def _loss(row: dict[str, Any]) -> str | None:
    """A case that ended before its loss was known has none."""
    return row.get("loss") or None
