"""How edge cases in custom models are treated: Q2."""

from __future__ import annotations

from tpscope.report.experiments.edge_rows import BAD, Edge, Edges, Treated, because
from tpscope.report.judges.view import Quoted, Reply, View
from tpscope.report.text import not_yet

EXPERIMENT = "experiments.edges"


def black_box(view: View) -> Reply:
    """Q2: of the edge cases, how many does Axolotl shard right, how many does it refuse, how many end badly?"""
    edges = Edges(view.study.measured(Edge))
    asked = [name for name in (view.axolotl, view.nemo) if name and edges.of(name)]
    if view.axolotl not in asked:
        return Reply("", not_yet(EXPERIMENT))
    rows = edges.of(view.axolotl)
    kinds = [edges.kind(row) for row in rows]
    bad, plain = sum(kind in BAD for kind in kinds), kinds.count(Treated.ORDINARY)
    verdict = (
        f"of {len(rows)} edge cases {kinds.count(Treated.EQUAL)} sharded and equal, {bad} that crash, come out "
        "different or stay whole without a word"
    )
    if plain:
        verdict += f", {plain} that end as badly as an ordinary model"
    words = "; ".join(f"{name}: {counted(edges, name)}" for name in asked)
    return Reply(verdict, words, tuple(line for name in asked for line in _lines(edges.of(name))))


def counted(edges: Edges, framework: str) -> str:
    """`5 sharded and equal (no plan, ...), 2 refused with a reason (...)`, best first."""
    rows = edges.of(framework)
    found = {kind: [row.edge for row in rows if edges.kind(row) == kind] for kind in Treated}
    return ", ".join(f"{len(names)} {kind.value} ({', '.join(names)})" for kind, names in found.items() if names)


def _lines(rows: list[Edge]) -> list[Quoted]:
    """The lines that refused or crashed."""
    return [Quoted(row.framework, error.where) for row in rows if (error := because(row)) and error.where]
