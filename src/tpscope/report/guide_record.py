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
from tpscope.report.guide_rows import ROWS, Evidence, Planned, Row, read_rows, write
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
    found = run.run([case])
    if found.interrupted:
        raise KeyboardInterrupt
    answer = found.cases[0]
    cell = prove_rows.cell(answer, spec, case.small.config)
    packages = answer.environment.get("packages", {})
    seen = bugs.Seen(
        framework, packages, cell.model_type, scenario, tp, cell.verdict.value, cell.causes, cell.sizes, cell.said
    )  # fmt: skip
    cell.bugs = [bug.id for bug in bugs.load() if bugs.explains(bug, seen)]
    made = stamp("")
    cell.commit, cell.date = made["commit"], made["date"]
    return cell


def record(root: Path) -> list[Row]:
    """Ask what has no row yet, and write each row as soon as it is there. Rows that no rule needs are dropped."""
    rules = guide.load()
    have, made = Evidence(read_rows(root), prove_rows.read(root)), provenance()
    own, cells = Evidence(have.rows), [row for row in have.rows if isinstance(row, Cell)]
    rows: list[Row] = []
    with Pool(lambda kind, text: print(text) if kind == "install" else None) as pool:
        # A framework stays warm while its own plans are asked.
        for wanted in sorted(guide.plans(rules), key=lambda item: item.framework):
            rows.append(have.plan(wanted) or planned(wanted, pool, made))
            print(f"plan: {rows[-1].framework} {rows[-1].model}", flush=True)
            done = {row.wanted for row in rows if isinstance(row, Planned)}
            kept = [row for row in have.rows if isinstance(row, Planned) and row.wanted not in done]
            write(root, [*rows, *kept, *cells])
    for asked in guide.proofs(rules):
        if Evidence([], have.swept).proof(*asked) is not None:
            continue
        rows.append(own.proof(*asked) or proved(*asked))
        print(f"proof: {' '.join(map(str, asked))}", flush=True)
        told = {(row.framework, row.model, row.scenario) for row in rows if isinstance(row, Cell)}
        write(root, [*rows, *(row for row in cells if (row.framework, row.model, row.scenario) not in told)])
    write(root, rows)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Record. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tpscope.report.guide_record", description="Rows of the guide.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose results/ are written")
    try:
        record(parser.parse_args(arguments).root)
    except KeyboardInterrupt:
        print(f"stopped; the rows that are there stay in {ROWS}", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"tpscope: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
