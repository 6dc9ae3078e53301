"""docs/matrix.md, bugs.md, guide.md, migration.md, performance.md and accuracy.md: pure functions of results/, bugs/,
guide.toml and the rows of migrate.

python -m tpscope.report.pages             write them
python -m tpscope.report.pages --check     fail if they differ from what the recorded rows give
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tpscope import bugs
from tpscope.price import published
from tpscope.price.accuracy import recorded_in
from tpscope.report import (
    accuracy_page,
    bug_pages,
    guide,
    guide_pages,
    guide_rows,
    migration,
    performance,
    prove_pages,
    prove_rows,
    prove_speed,
)
from tpscope.report.prove_rows import Proofs
from tpscope.report.sweep import MATRIX, RESULTS, ROOT, matrix

BUGS = Path("docs/bugs.md")
GUIDE = Path("docs/guide.md")
ACCURACY = Path("docs/accuracy.md")


def documents(root: Path) -> dict[Path, str]:
    """Every page by its path in the repository."""
    rows = prove_rows.read(root)
    book, proofs = bugs.load(), Proofs(rows)
    for cell in proofs.cells:
        cell.bugs = proofs.explained_by(cell, book)
    found = {BUGS: bug_pages.page(book, proofs), GUIDE: guide_pages.page(guide.load(), guide_rows.read(root))}
    if migration.examples(root):
        found[migration.PAGE] = migration.page(root)
    if (text := performance.page(root)) is not None:
        found[performance.PAGE] = text
    if (measured := recorded_in(root)) is not None:
        found[ACCURACY] = accuracy_page.page(measured, published.recorded_in(root))
    if (root / RESULTS).is_file():
        compared = [json.loads(text) for text in (root / RESULTS).read_text(encoding="utf-8").splitlines()]
        lines = prove_pages.part(proofs, book, prove_speed.read(root))
        found[MATRIX] = matrix(compared) + "".join(f"{text}\n" for text in lines)
    return found


def generate(root: Path) -> list[Path]:
    """Write the pages, and into the recorded cells which entries of the bug book explain them now."""
    rows = prove_rows.read(root)
    if rows:
        prove_rows.write(root, rows)
    written = []
    for name, text in documents(root).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
        written.append(name)
    return written


def problems(root: Path) -> list[str]:
    """What is not current, and every difference of the sweep that no entry of the bug book expects."""
    found = [
        f"{name}: differs from what results/ and bugs/ give; run python -m tpscope.report.pages"
        for name, text in documents(root).items()
        if not (root / name).is_file() or (root / name).read_text(encoding="utf-8") != text
    ]
    rows = prove_rows.read(root)
    recorded, proofs, book = {id(row): list(row.bugs) for row in Proofs(rows).cells}, Proofs(rows), bugs.load()
    stale = [cell for cell in proofs.cells if recorded[id(cell)] != proofs.explained_by(cell, book)]
    if stale:
        found.append(f"{prove_rows.PROOFS}: {len(stale)} cells name other entries than bugs/ has for them")
    rules = guide.load()
    found += guide.uncovered(rules) + guide_rows.lacking(rules, guide_rows.read(root))
    return found + proofs.unexplained()


if __name__ == "__main__":
    if "--check" in sys.argv:
        said = problems(ROOT)
        for sentence in said:
            print(sentence, file=sys.stderr)
        sys.exit(1 if said else 0)
    for path in generate(ROOT):
        print(f"written: {path}")
