"""docs/migration.md: the field map from the rows of `migrate`, and a worked example each way."""

from __future__ import annotations

from pathlib import Path

from tpscope.migrate.convert import convert, ranks_of
from tpscope.migrate.job import TITLE
from tpscope.migrate.result import Verdict
from tpscope.migrate.rows import SECTIONS, Row, rows
from tpscope.migrate.source import read
from tpscope.migrate.write import text_of
from tpscope.render.markdown import table

PAGE = Path("docs/migration.md")
EXAMPLES = (("axolotl", "lora-tp.yml", 4), ("nemo", "tp-lora.yaml", 4))
_DATA = Path("tests/data/migrate")
_HEAD = """# Moving between Axolotl and NeMo AutoModel

Written by `python -m tpscope.report.pages` from the rows that `tpscope migrate` runs on (`src/tpscope/migrate/fields`).
How to use the command stands in [migrate.md](migrate.md). Axolotl 0.19.0 and NeMo AutoModel 0.7.0; each row cites the
source that it rests on, which a test finds in the installed packages.

A field is **exact** or **renamed** where its value is copied, **derived** where it is computed and means the same,
**approximated** where the reason names a difference, **dropped** where the other side has nothing like it, and **needs
you** where it needs a decision or a number that the file does not have.
"""
_WORDS = {
    "same": "copied", "flag": "copied", "none": "", "table": "looked up", "size": "copied", "model": "computed",
}  # fmt: skip


def examples(root: Path) -> bool:
    """True in a checkout, which has the files that the examples are made of."""
    return all((root / _DATA / kind / name).is_file() for kind, name, _ in EXAMPLES)


def page(root: Path) -> str:
    """The whole page."""
    lines = [_HEAD, "## The field map", ""]
    for section in SECTIONS:
        mine = [row for row in rows() if row.section == section and row.keys["axolotl"] and row.keys["nemo"]]
        if mine:
            lines += [f"### {section.capitalize()}", ""]
            head = ["Axolotl", "NeMo AutoModel", "how", "source"]
            lines += [*table(head, [[*_keys(row), _how(row), _places(row)] for row in mine]), ""]
    for kind, other in (("axolotl", "nemo"), ("nemo", "axolotl")):
        alone = [row for row in rows() if row.keys[kind] and row.how == "none"]
        lines += [f"## What {TITLE[kind]} has and {TITLE[other]} has not", ""]
        lines += table(
            [TITLE[kind], "verdict", "why"], [[_list(row.keys[kind]), str(row.verdict), row.reason] for row in alone]
        )
        lines.append("")
    for kind, name, world in EXAMPLES:
        lines += _example(root / _DATA / kind / name, kind, world)
    return "\n".join(lines).rstrip("\n") + "\n"


def _keys(row: Row) -> list[str]:
    return [_list(row.keys["axolotl"]), _list(row.keys["nemo"])]


def _list(keys: tuple[str, ...]) -> str:
    shown = [f"`{key}`" for key in keys[:12]]
    return ", ".join(shown) + (f" and {len(keys) - 12} more" if len(keys) > 12 else "")


def _how(row: Row) -> str:
    if row.how == "none":
        return f"{row.verdict}: {row.reason}"
    words = _WORDS.get(row.how, "computed")
    if row.defaults:
        said = " / ".join(f"{TITLE[kind]} {value}" for kind, value in row.defaults.items())
        words += f"; defaults: {said}"
    return words


def _places(row: Row) -> str:
    return ", ".join(f"`{place.path}`: `{place.fragment}`" for place in row.at.values())


def _example(path: Path, kind: str, world: int) -> list[str]:
    source = read(path)
    draft, unknown = convert(source, ranks_of(source, world))
    made = text_of(draft, source, unknown)
    lines = [f"## Example: {TITLE[kind]} to {TITLE[draft.to]}, {world} ranks", "", "```yaml"]
    lines += [
        path.read_text(encoding="utf-8").rstrip("\n"),
        "```",
        "",
        "becomes",
        "",
        "```yaml",
        made.rstrip("\n"),
        "```",
        "",
    ]
    looks = [item for item in draft.fields if item.verdict not in (Verdict.EXACT, Verdict.RENAMED)]
    rows_ = [[item.source or "(default)", item.target or "-", item.verdict.value, item.reason] for item in looks]
    return [*lines, *table(["from", "to", "verdict", "why"], rows_), ""]
