"""A comparison as one HTML file that opens offline: assets inlined, nothing fetched, every text escaped.

It lays out what the result holds. Layers are collapsed as `compare` collapses them; which fields of a row are marked as
differing is a comparison of the printed texts, no judgement.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tpscope.compare.differences import joined
from tpscope.compare.join import canonical
from tpscope.compare.result import Comparison
from tpscope.language.answer import FrameworkAnswer, LogLine, ParameterRow, PlanRow, TrailLine
from tpscope.language.layout import AXES
from tpscope.language.plan import wildcard
from tpscope.language.verdict import Severity, Status
from tpscope.render.rank_grid import rank_grid

STATUS_WORDS = {
    Status.OK: "runs",
    Status.REFUSED: "refuses",
    Status.UNSUPPORTED: "unsupported",
    Status.CRASHED: "crashes",
}
FACETS = ("placement", "local_shape", "gradient", "gradient_loop", "forward", "backward")
_STYLES = ("theme.css", "layout.css", "parts.css")


@dataclass(frozen=True)
class Entry:
    """What holds for `count` parameters (or, without a placement, for `count` modules) in one cell of the table."""

    spelled: tuple[str, ...]
    count: int
    pattern: str | None = None
    rule: PlanRow | None = None
    placement: str | None = None
    shape: str = ""
    local_shape: str = ""
    gradient: str = ""
    gradient_loop: str = ""
    mesh: tuple[tuple[str, str], ...] = ()
    trainable: bool = True

    def facet(self, name: str) -> str:
        """The printed text of one of FACETS."""
        if name in ("forward", "backward"):
            return ", ".join(getattr(self.rule, name)) if self.rule else ""
        return str(getattr(self, name))


@dataclass
class Row:
    """One canonical parameter, or one module with a rule and no parameter; a cell per column, empty if it has none."""

    name: str
    is_module: bool
    cells: list[list[Entry]] = field(default_factory=list)

    @property
    def differs(self) -> set[str]:
        """Facets whose text is not the same in every column; `presence` where only some columns have the row."""
        found = {
            name
            for name in FACETS
            if len({frozenset(entry.facet(name) for entry in cell) for cell in self.cells if cell}) > 1
        }
        return found | ({"presence"} if any(self.cells) and not all(self.cells) else set())


def page(comparison: Comparison) -> str:
    """The comparison as one self-contained HTML page."""
    tabled = [column for column in comparison.frameworks if column.parameters or column.plan]
    style = "\n".join(_asset(name) for name in _STYLES)
    early, late = _asset("theme.js"), _asset("page.js")
    return (
        _environment()
        .get_template("page.jinja")
        .render(
            comparison=comparison,
            tabled=tabled,
            rows=_rows(tabled),
            axes={axis: int(comparison.layout.get(axis, 1)) for axis in AXES},
            grid=Markup(rank_grid(comparison.layout)),
            severities=Counter(item.severity for item in comparison.differences),
            severity_order=list(Severity),
            status_words=STATUS_WORDS,
            style=Markup(style),
            early_script=Markup(early),
            late_script=Markup(late),
            style_hash=_hash(style),
            script_hashes=[_hash(early), _hash(late)],
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tpscope.render", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        by_file=_by_file,
        repeated=_repeated,
        keys=_keys,
        pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
        percent=lambda share: f"{share:.3%}",
        number=lambda value: f"{value:,}",
        flat=_flat,
        breakable=_breakable,
    )
    return environment


def _asset(name: str) -> str:
    return files("tpscope.render").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source expression of a Content-Security-Policy: only the inlined text itself may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _rows(columns: list[FrameworkAnswer]) -> list[Row]:
    """Rows in the order of the model, modules without a parameter after them."""
    tables = [joined(column) for column in columns]
    rows = [
        Row(name, False, [_entries(table.get(name, []), column) for table, column in zip(tables, columns, strict=True)])
        for name in _union(tables)
    ]
    modules = [_modules(column) for column in columns]
    rows += [Row(name, True, [found.get(name, []) for found in modules]) for name in _union(modules)]
    return rows


def _union(tables: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for table in tables for name in table))


def _entries(rows: list[ParameterRow], column: FrameworkAnswer) -> list[Entry]:
    """The parameters of one cell, those with the same texts together."""
    rules = {rule.pattern: rule for rule in column.plan}
    groups: dict[tuple[Any, ...], list[ParameterRow]] = {}
    for row in rows:
        shapes = (tuple(row.shape), tuple(row.local_shape))
        marks = (row.gradient, row.gradient_loop, row.trainable)
        groups.setdefault((row.placement, *shapes, *marks, row.rule, tuple(row.mesh.items())), []).append(row)
    return [
        Entry(
            spelled=tuple(dict.fromkeys(wildcard(row.name) for row in group)),
            count=len(group),
            pattern=group[0].rule,
            rule=rules.get(group[0].rule or ""),
            placement=group[0].placement,
            shape=str(group[0].shape),
            local_shape=str(group[0].local_shape),
            gradient=group[0].gradient.value,
            gradient_loop=group[0].gradient_loop.value,
            mesh=tuple(group[0].mesh.items()),
            trainable=group[0].trainable,
        )
        for group in groups.values()
    ]


def _modules(column: FrameworkAnswer) -> dict[str, list[Entry]]:
    """Rules that match modules and decide about no parameter: they only change activations."""
    used = {row.rule for row in column.parameters}
    found: dict[str, list[Entry]] = {}
    for rule in column.plan:
        if rule.matched and rule.pattern not in used:
            entry = Entry(spelled=(rule.pattern,), count=rule.matched, pattern=rule.pattern, rule=rule)
            found.setdefault(canonical(rule.pattern), []).append(entry)
    return found


def _by_file(trail: list[TrailLine]) -> dict[str, list[tuple[int, TrailLine]]]:
    """The lines of a trail by file, each with its place in the order of first execution."""
    groups: dict[str, list[tuple[int, TrailLine]]] = {}
    for number, line in enumerate(trail, start=1):
        groups.setdefault(line.path, []).append((number, line))
    return groups


def _repeated(log: list[LogLine]) -> list[tuple[LogLine, int]]:
    """Log messages in first-occurrence order, each with how often it was logged."""
    counts = Counter((line.level, line.logger, line.message) for line in log)
    return [(LogLine(*key), count) for key, count in counts.items()]


def _keys(rows: list[dict[str, Any]]) -> list[str]:
    """The keys of any row, `outcome` last."""
    return sorted(_union(rows), key=lambda key: key == "outcome")


def _breakable(name: str) -> Markup:
    """A path or dotted name that may be broken after its separators, but not before a line number."""
    return Markup("<wbr>").join(re.split(r"(?<=[/.])|(?<=:)(?!\d)", name))


def _flat(value: Any) -> str:
    """A small JSON value as one line of words."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_flat(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value)
