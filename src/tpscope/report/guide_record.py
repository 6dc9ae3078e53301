"""Records what the guide shows and no sweep has: plans, and proofs of versions that are not swept.

python -m tpscope.report.guide_record   ask what has no row yet, and write results/guide.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tpscope import bugs
from tpscope.compare.ask import Wishes, question
from tpscope.compare.run import Pool
from tpscope.errors import UserError
from tpscope.frameworks import registry
from tpscope.language.verdict import Status
from tpscope.models.read import read as read_model
from tpscope.prove import run, scenarios
from tpscope.report import guide, prove_rows
from tpscope.report.guide import Wanted
from tpscope.report.guide_rows import Evidence, Planned, Row, read_rows, write
from tpscope.report.prove_rows import Cell
from tpscope.report.record import provenance, steady
from tpscope.report.rows import Provenance
from tpscope.report.sweep import ROOT, stamp


def planned(wanted: Wanted, pool: Pool, made: Provenance) -> Planned:
    """The plan that a framework selects, by `tpscope compare`."""
    target = registry.parse(wanted.framework)
    pool.prepare([target])
    asked = question(wanted.model, Wishes(tp=wanted.tp, sequence_parallel=wanted.sequence_parallel or None))
    answer = pool.answers(asked, [target])[0]
    words = ["tpscope compare", wanted.model, f"--tp {wanted.tp}", f"--with {wanted.framework}"]
    words += ["--sequence-parallel"] if wanted.sequence_parallel else []
    failed = f"{answer.status.value}: {steady(answer.error.message)}" if answer.error else ""
    return Planned(
        wanted.framework, wanted.model, wanted.tp, wanted.sequence_parallel, " ".join(words), made,
        answer.selection.level, answer.plan, failed if answer.status is not Status.OK and not answer.plan else "",
    )  # fmt: skip


def proved(framework: str, model: str, scenario: str, tp: int) -> Cell:
    """One proof, by `tpscope prove`, as the sweep records it."""
    target, spec = registry.parse(framework), read_model(model)[0]
    (case,) = run.matrix([spec], [target], [scenarios.parse(scenario)], [tp])
    answer = run.run([case]).cases[0]
    found = prove_rows.cell(answer, spec, case.small.config)
    packages = answer.environment.get("packages", {})
    seen = bugs.Seen(
        framework, packages, found.model_type, scenario, tp, found.verdict.value, found.causes, found.sizes, found.said
    )  # fmt: skip
    found.bugs = [bug.id for bug in bugs.load() if bugs.explains(bug, seen)]
    made = stamp("")
    found.commit, found.date = made["commit"], made["date"]
    return found


def record(root: Path) -> list[Row]:
    """Ask what has no row yet, and write each row as soon as it is there. Rows that no rule needs are dropped."""
    rules = guide.load()
    have, made = Evidence(read_rows(root), prove_rows.read(root)), provenance()
    rows: list[Row] = []
    with Pool(lambda kind, text: print(text) if kind == "install" else None) as pool:
        for wanted in guide.plans(rules):
            rows.append(have.plan(wanted) or planned(wanted, pool, made))
            print(f"plan: {rows[-1].framework} {rows[-1].model}", flush=True)
    own = Evidence(have.rows)
    write(root, [*rows, *(row for row in have.rows if isinstance(row, Cell))])
    for asked in guide.proofs(rules):
        if Evidence([], have.swept).proof(*asked) is not None:
            continue
        rows.append(own.proof(*asked) or proved(*asked))
        print(f"proof: {' '.join(map(str, asked))}", flush=True)
        write(root, rows)
    write(root, rows)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Record. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tpscope.report.guide_record", description="Rows of the guide.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose results/ are written")
    try:
        record(parser.parse_args(arguments).root)
    except UserError as error:
        print(f"tpscope: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
