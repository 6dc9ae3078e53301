"""The study in eleven sections and its specification: run, record, write; or check that the written files are current.

python -m tpscope.report.study             run what the study rests on, record the rows, write both files
python -m tpscope.report.study --sources   read the frameworks' sources again, keep the recorded runs, write both files
python -m tpscope.report.study --generate  write both files from the recorded rows
python -m tpscope.report.study --check     fail if the files differ from what the recorded rows give
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tpscope.errors import UserError
from tpscope.frameworks.registry import families
from tpscope.report import advice, changes, guidance, prove_rows, specification
from tpscope.report.advice import Advice
from tpscope.report.experiments import store
from tpscope.report.experiments.rows import Measured
from tpscope.report.facts import Study
from tpscope.report.program import ended
from tpscope.report.rows import Row, RunRow, read, write
from tpscope.report.runs import FRAMEWORKS, RUNS, Run
from tpscope.report.sections import (
    adapters,
    appendix,
    architecture,
    changed,
    configuration,
    glossary,
    hugging_face,
    mesh,
    models,
    one_by_one,
    overview,
    pipeline,
    plans,
    quality,
    register,
    sequence,
    styles,
    summary,
)
from tpscope.report.text import anchor

ROWS = "results/study.jsonl"
STUDY = "docs/analysis/nemo_vs_axolotl_tp_implementation.md"
SPECIFICATION = "specs/012-nemo-axolotl-tp-comparison/README.md"

Section = Callable[[Study], list[str]]
_MODULES = (
    overview, architecture, plans, mesh, styles, models, sequence, adapters, hugging_face, configuration, summary,
)  # fmt: skip
SECTIONS: tuple[tuple[str, Section], ...] = tuple(
    (f"{number}. {module.TITLE}", module.section) for number, module in enumerate(_MODULES, 1)
)
APPENDICES: tuple[tuple[str, Section], ...] = (
    (appendix.REPEAT, appendix.repeat), (appendix.SHIMS, appendix.shims), (appendix.TORCH, appendix.torch),
    (appendix.FILES, appendix.files), (register.TITLE, register.section),
    (pipeline.TITLE, pipeline.section), (one_by_one.TITLE, one_by_one.section),
    (glossary.TITLE, glossary.section), (quality.TITLE, quality.section),
)  # fmt: skip


_MADE_OF = (
    f"{ROWS}, {prove_rows.PROOFS}, {store.EXPERIMENTS}, {store.PRICES}, results/bench-*.jsonl and {advice.ADVICE}"
)
MADE = (
    f"Made from {_MADE_OF} by `python -m tpscope.report.study --generate`; edits here are lost and fail `make check`."
)


def page(
    rows: list[Row], proofs: Iterable[prove_rows.Row] = (), experiments: Iterable[Measured] = (), made: str = MADE,
    advised: Iterable[Advice] = (),
) -> str:  # fmt: skip
    """The study as Markdown: a pure function of the recorded rows, and of the bug book where it explains a proof.

    `made` is the comment that says what it was made from.
    """
    study = Study(rows, proofs, experiments, advised)
    parts = chapters(study)
    lines = [f"# {_title(study)}", "", f"<!-- {made} -->", "", *_dated(study), "## Contents", ""]
    lines += [*(f"- [{title}](#{anchor(title)})" for title, _ in parts), ""]
    for title, section in parts:
        study.written[title] = section(study)
        lines += [f"## {title}", "", *study.written[title]]
    return _tidy(lines)


def chapters(study: Study) -> tuple[tuple[str, Section], ...]:
    """Sections and appendices in order. What changed leads where all columns are versions of one framework."""
    if not changes.pairs(study):
        return (*SECTIONS, *APPENDICES)
    versions = (changed.TITLE, changed.section)
    if len(study.families()) == 1:
        return (versions, *SECTIONS, *APPENDICES)
    return (*SECTIONS, versions, *APPENDICES)


def part(
    rows: list[Row], proofs: Iterable[prove_rows.Row], title: str, experiments: Iterable[Measured] = (),
    advised: Iterable[Advice] = (),
) -> str:  # fmt: skip
    """One section or appendix as Markdown, by its title. It may be one that these rows do not call for."""
    study = Study(rows, proofs, experiments, advised)
    sections = dict((*SECTIONS, (changed.TITLE, changed.section), *APPENDICES))
    if title in (glossary.TITLE, quality.TITLE):
        # These are about the text before them.
        for name, section in chapters(study):
            study.written[name] = section(study)
    return _tidy([f"## {title}", "", *sections[title](study)])


def _title(study: Study) -> str:
    names = [families()[name].title if name in families() else name for name in study.families()]
    if len(names) == 1 and (versions := next(iter(study.families().values()))) and len(versions) > 1:
        return f"{names[0]}, {versions[0]} to {versions[-1]}: what changed in tensor parallelism"
    return f"{' and '.join(names)}: how each implements tensor parallelism" if names else "Tensor parallelism"


def _dated(study: Study) -> list[str]:
    dates = sorted({made.date for made in study.made()})
    return (
        [f"Recorded {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}; how to repeat it is in appendix A.", ""]
        if dates
        else []
    )


def _tidy(lines: list[str]) -> str:
    """Lines as one text, without two empty lines in a row."""
    kept = [line for index, line in enumerate(lines) if line or (index and lines[index - 1])]
    return "\n".join(kept).rstrip("\n") + "\n"


def documents(
    rows: list[Row], proofs: Iterable[prove_rows.Row] = (), experiments: Iterable[Measured] = (),
    advised: Iterable[Advice] = (),
) -> dict[str, str]:  # fmt: skip
    """Every generated file by its path in the repository."""
    study = Study(rows, proofs, experiments, advised)
    return {
        STUDY: page(rows, proofs, experiments, advised=study.advice),
        SPECIFICATION: _tidy(specification.lines(study)),
    }


def generate(root: Path) -> list[Path]:
    """Write the generated files from the recorded rows."""
    written = []
    for name, text in _documents(root).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _documents(root: Path) -> dict[str, str]:
    return documents(recorded(root), prove_rows.read(root), store.read(root), advice.read(root))


def recorded(root: Path) -> list[Row]:
    """The recorded rows. Raises UserError if there are none."""
    path = root / ROWS
    if not path.is_file():
        raise UserError(f"{path} is not there; run python -m tpscope.report.study to record the runs")
    return read(path.read_text(encoding="utf-8"))


def problems(root: Path, runs: Iterable[Run] = RUNS) -> list[str]:
    """What is not current, one sentence each: a generated file that differs, or a run of the study without a row."""
    rows = recorded(root)
    have = {row.command for row in rows if isinstance(row, RunRow)}
    found = [f"{ROWS}: no row for {run.command()}" for run in runs if run.command() not in have]
    advised = advice.read(root)
    found += guidance.missing(advised) if advised else []
    found += advice.contradicted(advised, prove_rows.Proofs(prove_rows.read(root)))
    for name, wanted in _documents(root).items():
        path = root / name
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text != wanted:
            number, line = _first_difference(text.splitlines(), wanted.splitlines())
            found.append(f"{name}:{number}: differs from what {_MADE_OF} give: {line}")
    return found


def _first_difference(have: list[str], wanted: list[str]) -> tuple[int, str]:
    for number, line in enumerate(have, 1):
        if number > len(wanted):
            return number, f"the file goes on with {line!r}"
        if line != wanted[number - 1]:
            return number, f"the file has {line!r}, the rows give {wanted[number - 1]!r}"
    if len(wanted) > len(have):
        return len(have) + 1, f"the file ends, the rows give {wanted[len(have)]!r}"
    return len(have), "only the end of the file differs"


def main(arguments: list[str] | None = None, root: Path | None = None) -> int:
    """Run, record and write; or one part of it. Returns the exit code: 1 where --check finds something."""
    parser = argparse.ArgumentParser(prog="python -m tpscope.report.study", description="The study in eleven sections.")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--sources", action="store_true", help="read the sources again and keep the recorded runs")
    only.add_argument("--generate", action="store_true", help="write the files from the recorded rows")
    only.add_argument("--check", action="store_true", help="fail if the files are not current")
    asked = parser.parse_args(arguments)
    place = root or Path(__file__).resolve().parents[3]

    def work() -> int:
        if asked.check:
            found = problems(place)
            for sentence in found:
                print(sentence, file=sys.stderr)
            return 1 if found else 0
        if not asked.generate:
            from tpscope.report.record import record, reread

            kept = asked.sources
            rows = reread(recorded(place), FRAMEWORKS, print) if kept else record(RUNS, FRAMEWORKS, print)
            write(place / ROWS, rows)
        for path in generate(place):
            print(f"written: {path}")
        return 0

    return ended(work, ROWS)


if __name__ == "__main__":
    sys.exit(main())
