"""The frameworks' own style classes in plain PyTorch, as section 5 tells them."""

from __future__ import annotations

from collections.abc import Iterable

from tpscope.language.measured.port import Means
from tpscope.report.experiments.style_rows import Port, Style, counterpart, ported, why
from tpscope.report.facts import Study
from tpscope.report.text import ABSENT, code, listed, table

TITLE = "### In plain PyTorch"


def section(study: Study) -> list[str]:
    """Each class with what takes its place, everything that was tried, the patches."""
    rows = study.measured(Style)
    if not rows:
        return []
    ranks = listed(str(row.trial.ranks) for row in rows if row.trial.ranks)
    lines = [TITLE, ""]
    lines += table(
        f"Each class was put on a small module under {ranks} gloo ranks, and in its place styles of "
        "`torch.distributed.tensor.parallel`: same weights, same inputs, forward and backward in float64. Outputs, "
        "gradients of inputs and parameters and every placement were compared, and the class itself with the unsharded "
        "module. The least that gives the same counts: no style, one style, several one after the other, a patch of "
        "ours. A counterpart that is wrong on purpose had to come out different each time.",
        ["framework", "class", "tried on", "in PyTorch", "by", "largest error", "equal, and yet"],
        _alike((row.framework, _verdict(row)) for row in rows),
    )
    tried = [(row, one) for row in rows for one in row.trial.tries]
    lines += table(
        "Everything that was tried in the place of a class.",
        ["framework", "class", "tried", "as", "outcome", "what differs"],
        _alike(
            (row.framework, (f"`{row.style}`", code(one.text), one.means.value, one.outcome.value, one.said or ABSENT))
            for row, one in tried
        ),
    )
    patches = {one.source: one for _, one in tried if one.means == Means.PATCH}
    if patches:
        lines += ["The patches whole; their lines are counted without the docstring.", ""]
        for source in patches:
            lines += ["```python", *source.rstrip().splitlines(), "```", ""]
    return lines


def _alike(rows: Iterable[tuple[str, tuple[str, ...]]]) -> list[list[str]]:
    """Rows that only the framework tells apart as one, with all frameworks."""
    found: dict[tuple[str, ...], list[str]] = {}
    for framework, cells in rows:
        found.setdefault(cells, []).append(framework)
    return [[listed(frameworks), *cells] for cells, frameworks in found.items()]


def _verdict(row: Style) -> tuple[str, ...]:
    own, found, kind = row.trial.own, counterpart(row), ported(row)
    here = kind in (Port.COVERED, Port.PORTABLE) and found is not None
    by = _by(row) if here else why(row)
    errors = [one.error for one in (own, found) if one and one.error is not None]
    notes = [*(own.notes if own else []), *(found.notes if found else [])]
    return (
        f"`{row.style}`", row.trial.scene or ABSENT, f"**{kind.value}**", by,
        f"{max(errors):.1e}, allowed {row.trial.tolerance:.1e}" if errors else ABSENT, "; ".join(notes) or ABSENT,
    )  # fmt: skip


def _by(row: Style) -> str:
    found = counterpart(row)
    assert found is not None
    return f"{code(found.text)}, {found.lines} lines" if found.means == Means.PATCH else code(found.text)
