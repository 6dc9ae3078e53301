"""Whether NeMo's style classes have a place in PyTorch: Q3."""

from __future__ import annotations

from tpscope.report.experiments.style_rows import Port, Style, counterpart, ported, why
from tpscope.report.judges.view import Quoted, Reply, View
from tpscope.report.text import not_yet

EXPERIMENT = "experiments.styles"


def upstream(view: View) -> Reply:
    """Q3: which classes does PyTorch cover already, which would a patch bring in, which cannot be brought?"""
    rows = view.study.measured(Style, view.nemo) if view.nemo else []
    if not rows:
        return Reply("", not_yet(EXPERIMENT))
    found = {kind: [row for row in rows if ported(row) == kind] for kind in Port}
    longest = max((_lines(row) for row in found[Port.PORTABLE]), default=0)
    told = [f"{len(found[Port.COVERED])} of {len(rows)} covered already"]
    if found[Port.PORTABLE]:
        told.append(f"{len(found[Port.PORTABLE])} portable with at most {longest} lines")
    told += [f"{len(found[kind])} {kind.value}" for kind in (Port.NOT, Port.OPEN) if found[kind]]
    words = "; ".join(f"{kind.value}: {', '.join(map(_named, rows))}" for kind, rows in found.items() if rows)
    return Reply(", ".join(told), f"{view.nemo}: {words}", tuple(Quoted(row.framework, row.where) for row in rows))


def _lines(row: Style) -> int:
    found = counterpart(row)
    return found.lines if found else 0


def _named(row: Style) -> str:
    """A class with what takes its place, or why nothing does."""
    found = counterpart(row)
    if ported(row) in (Port.NOT, Port.OPEN) or found is None:
        return f"{row.style} ({why(row)})"
    lines = f", {found.lines} lines" if found.lines else ""
    return f"{row.style} ({short(found.text)}{lines})"


def short(text: str) -> str:
    """Styles by their class names: `SequenceParallel, then PrepareModuleOutput`."""
    return ", then ".join(part.partition("(")[0] for part in text.split("), then ")) if "(" in text else text
