"""Edge cases in custom models, as section 9 tells them: what each framework makes of each."""

from __future__ import annotations

from collections import Counter

from tpscope.report.experiments.edge_rows import BAD, Edge, Edges, Treated, because
from tpscope.report.facts import Study
from tpscope.report.text import ABSENT, at, code, listed, table

TITLE = "### Edge cases in custom models"


def section(study: Study) -> list[str]:
    """Cases by framework, the counts, and what stands behind every cell that is not equal."""
    rows = study.measured(Edge)
    if not rows:
        return []
    keys = list(dict.fromkeys([*(key for key in study.frameworks if study.measured(Edge, key)),
                               *(row.framework for row in rows)]))  # fmt: skip
    named = list({row.edge: row for row in rows}.values())
    order = {row.edge: number for number, row in enumerate(named)}
    edges = Edges(rows)
    cells = {(row.edge, row.framework): _cell(edges, row) for row in rows}
    lines = [TITLE, ""]
    lines += table(
        "Every case was compared at its published size and proved at a proof-sized one, with nothing set but tensor "
        "parallelism (appendix A has the commands). A framework that refuses says why; one that crashes does not. The "
        "ordinary model is there to compare with: an end that it shares is not the edge's doing.",
        ["case", "model", "tp", *keys],
        [
            [
                f"{one.edge}: {one.says}", code(one.model), str(one.tp),
                *(cells.get((one.edge, key), "not asked") for key in keys),
            ]
            for one in named
        ],
    )  # fmt: skip
    counts = {key: Counter(edges.kind(row) for row in edges.of(key)) for key in keys}
    lines += table(
        f"The {len({row.edge for row in edges.rows})} edge cases counted.",
        ["framework", *(kind.value for kind in Treated)],
        [[key, *(str(counts[key][kind]) for kind in Treated)] for key in keys],
    )  # fmt: skip
    lines += table(
        "What is behind each cell that is not `sharded and equal`: the framework's own words, or what the proof found.",
        ["case", "framework", "level", "sharded", "what it says, or what was found", "at"],
        [_behind(row) for row in sorted(rows, key=lambda row: order[row.edge]) if edges.kind(row) != Treated.EQUAL],
    )
    return lines


def _cell(edges: Edges, row: Edge) -> str:
    kind = edges.kind(row)
    causes = f": {listed(row.proof.causes)}" if row.proof and row.proof.causes else ""
    return f"**{kind.value}**{causes}" if kind in BAD else f"{kind.value}{causes}"


def _behind(row: Edge) -> list[str]:
    error = because(row)
    said = f"{error.kind}: {error.message}" if error else row.failed or row.warned or _proved(row)
    caveat = "; torch is outside the range that it declares" if row.proof and row.proof.caveat else ""
    return [
        row.edge, row.framework, row.level or ABSENT, f"{row.sharded_fraction:.0%}", _short(said) + caveat,
        at(error.where) if error else ABSENT,
    ]  # fmt: skip


def _proved(row: Edge) -> str:
    return f"{row.proof.verdict.value}: {row.proof.sentence}" if row.proof else "no proof could be made"


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 240 else words[:237].rstrip() + "..."
