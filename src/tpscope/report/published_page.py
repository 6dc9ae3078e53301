"""The section of docs/accuracy.md on what others published, from results/published.json alone."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from tpscope.price.published import Predicted, Published, Row


def section(found: Published) -> list[str]:
    """Predicted beside published, then what was not predicted and why."""
    there = [one for one in found.rows if not one.why]
    eager = [one for one in there if not one.row.compile]
    lines = [
        "## Published rows", "",
        f"Predicted by `{found.command}` from `src/tpscope/price/published.toml`, which has each of these rows with",
        "its source, commit and line; other rows of these pages are float8 or have an axis of experts. Nothing is",
        "calibrated on them. Figures are tokens per second and GPU; memory is what the source calls its peak, and the",
        "highest sum of live bytes here. Times of a machine on which nothing was measured are uncalibrated, those of a",
        "layout that was not measured are extrapolated.", "",
        *(f"- {name}: {said}." for name, words in found.assumed.items() for said in words), "",
        *_come_to("Of the rows that ran eager there", eager),
        *_come_to("Of all that are predicted", there), "",
        "| what | GPUs, layout | batch x length | column, machine | published | predicted | error | GiB | predicted | "
        "differences |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---|",
        *(_row(one) for one in there), "",
        "Not predicted:", "",
        "| what | GPUs, layout | published | why |", "|---|---|---:|---|",
        *(
            f"| {_what(one.row)} | {_layout(one.row)} | {one.row.tokens_per_second:g} | {one.why} |"
            for one in found.rows if one.why
        ), "", *_sources(found), "",
    ]  # fmt: skip
    return lines


def _come_to(what: str, rows: list[Predicted]) -> Iterable[str]:
    errors = [one.error for one in rows if one.error is not None]
    if errors:
        yield (
            f"{what} ({len(errors)}): error {median(abs(error) for error in errors):.0%} median, "
            f"from {min(errors):+.0%} to {max(errors):+.0%}."
        )
        yield ""


def _row(one: Predicted) -> str:
    row = one.row
    memory = "" if row.memory_gib is None else f"{row.memory_gib:g}"
    error = "" if one.error is None else f"{one.error:+.0%}"
    again = f", {row.recompute} recomputation" if row.recompute else ""
    room = "" if one.fits else ", more than there is"
    steps = f" x {row.micro_batches} micro-batches" if row.micro_batches > 1 else ""
    return (
        f"| {_what(row)} | {_layout(row)} | {row.batch} x {row.sequence}{steps}{again} | "
        f"{row.framework}, {row.hardware} | "
        f"{row.tokens_per_second:g} | {one.tokens_per_second:.0f} | {error} | {memory} | {one.memory_gib:.1f}{room} | "
        f"{'; '.join(one.differs)} |"
    )


def _what(row: Row) -> str:
    return f"{row.name} ({row.repository.partition('/')[2]}, {row.path.rpartition('/')[2]}:{row.line})"


def _layout(row: Row) -> str:
    sizes = " ".join(f"{axis}={size}" for axis, size in row.layout.items()) or "alone"
    return f"{row.gpus} x {row.machine}, {sizes}{' sp' if row.sequence_parallel else ''}"


def _sources(found: Published) -> Iterable[str]:
    yield "Sources, and where what a page does not state was taken from:"
    yield ""
    for one in dict.fromkeys(
        (item.row.repository, item.row.path, item.row.commit, item.row.settings) for item in found.rows
    ):
        repository, path, commit, settings = one
        yield f"- {repository} `{path}` at {commit}: {settings}."
