"""The second half of `make sweep`: the catalog x framework versions x the ways people train, each cell proved.

python -m tpscope.report.prove_sweep                          all of it, then the timings, then the pages
python -m tpscope.report.prove_sweep --only nemo,axolotl@0.19.0
python -m tpscope.report.prove_sweep --models llama-3.1-8b,qwen3-8b --scenarios plain,lora

Rows go into results/prove.jsonl, those of cells that were not asked stay. A sweep that was stopped goes on where it
was: answers are kept by content, and those that are not (a process died) in out/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console
from rich.markup import escape

from tpscope.errors import UserError
from tpscope.frameworks import registry
from tpscope.frameworks.pins import declared_ranges
from tpscope.frameworks.registry import Target
from tpscope.frameworks.targets import environment
from tpscope.frameworks.world import Worlds
from tpscope.language.proof import ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.models import catalog
from tpscope.models.read import read as read_model
from tpscope.prove import run, scenarios
from tpscope.prove.run import Case, Options
from tpscope.render.status import Status
from tpscope.report import pages, prove_rows, prove_speed, study
from tpscope.report.prove_rows import Cell, Swept
from tpscope.report.rows import line
from tpscope.report.sweep import ROOT, stamp

FRAMEWORKS = (
    "nemo@0.2.0", "nemo@0.6.0", "nemo@0.7.0", "axolotl@0.13.2", "axolotl@0.16.0", "axolotl@0.19.0",
    "transformers@5.23.0",
)  # fmt: skip
SCENARIOS = ("plain", "accumulate", "lora", "sequence-parallel", "fsdp", "clip", "step", "resume")
TP = 2
# A case takes a few seconds. One that hangs is asked again under other hash seeds, so waiting is dear: where two models
# have hung in the same way to train, the others are given less.
SECONDS, PATIENT, LESS = 60.0, 2, 20.0
UNFINISHED = Path("out/prove_sweep.jsonl")
_CELL = TypeAdapter(Cell)


class Unfinished:
    """Cells of a sweep that has not come to its end, by what they depend on, in a file that outlives a kill."""

    def __init__(self, path: Path):
        self._path = path
        self.cells: dict[str, Cell] = {}
        if path.is_file():
            for text in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(text)
                except json.JSONDecodeError:
                    continue  # the last line of a process that was killed while it wrote
                self.cells[row["key"]] = _CELL.validate_python(row["cell"])

    def add(self, key: str, cell: Cell) -> None:
        """Keep a cell, at once."""
        self.cells[key] = cell
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "cell": json.loads(line(cell))}) + "\n")

    def forget(self) -> None:
        """The sweep is at its end: the next one asks anew what is not kept elsewhere."""
        self._path.unlink(missing_ok=True)
        self.cells = {}


class Progress(Status):
    """One line that lives: how far, what runs, how long a case takes, how long it will take."""

    def __init__(self, total: int, console: Console):
        super().__init__(console)
        self._total = total
        self._done, self._bad, self._asked = 0, 0, 0
        self._started = time.monotonic()
        self._model = ""

    def skip(self, count: int) -> None:
        """Count cells that an earlier sweep has answered."""
        self._done += count

    def watch(self, case: Case, answer: ProofAnswer | None) -> None:
        """Take the start (None) or the answer of a case."""
        if answer is not None:
            self._done += 1
            self._asked += 1
            self._bad += answer.verdict == Verdict.DIFFERENT
        text = self._text(case.name)
        self.line(text)
        if self._shown or answer is None:
            return
        if case.target.id + case.model.name != self._model or self._done == self._total:
            # Where nobody looks at a terminal, a line for each model and framework is enough.
            self._model = case.target.id + case.model.name
            self._console.print(escape(text), highlight=False, soft_wrap=True)

    def _text(self, name: str) -> str:
        passed = time.monotonic() - self._started
        each = passed / max(1, self._asked)
        left = each * (self._total - self._done) / 60
        return (
            f"{self._done}/{self._total} {name}: {self._bad} different, {each:.1f} s a case, "
            f"{passed / 60:.0f} min passed, about {left:.0f} min left"
        )


def sweep(
    root: Path, targets: Sequence[Target], models: Sequence[str], ways: Sequence[str], options: Options,
    console: Console,
) -> int:  # fmt: skip
    """Prove all cells, framework by framework, and write each framework's rows when it is done. 130 if interrupted."""
    specs = [read_model(name)[0] for name in models]
    parsed = [scenarios.parse(name) for name in ways]
    unfinished = Unfinished(root / UNFINISHED)
    if options.fresh:
        unfinished.forget()
    total = len(targets) * len(specs) * len(parsed)
    with Progress(total, console) as progress:
        for target in targets:
            cases = run.matrix(specs, [target], parsed, [TP])
            done = _swept(cases, target, options, unfinished, progress, console)
            if len(done.cells) < len(cases):
                return _stopped(console)
            _record(root, done, _command(target, models, ways))
    unfinished.forget()
    return 0


def _stopped(console: Console) -> int:
    console.print(f"stopped; what is finished is kept in {UNFINISHED} and in the cache of answers")
    return 130


@dataclass
class _Done:
    """Cells of one framework, with what they ran in."""

    torch_declared: str
    cells: list[Cell] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)


def _swept(
    cases: list[Case], target: Target, options: Options, unfinished: Unfinished, progress: Progress, console: Console
) -> _Done:
    """Cells of one framework, through one set of warm worlds. Fewer than asked if it was interrupted."""
    where = environment(target, lambda text: console.print(escape(text)))
    keys = {case.name: run.kept_at(case, where, options).stem for case in cases}
    todo = [case for case in cases if keys[case.name] not in unfinished.cells]
    progress.skip(len(cases) - len(todo))
    made = stamp("")
    done = _Done(declared_ranges({"torch": ""}, where.declared).get("torch", ""))

    def watch(case: Case, answer: ProofAnswer | None) -> None:
        progress.watch(case, answer)
        if answer is None:
            return
        cell = prove_rows.cell(answer, case.model, case.small.config)
        cell.commit, cell.date = made["commit"], made["date"]
        unfinished.add(keys[case.name], cell)
        done.packages = dict(sorted(answer.environment.get("packages", {}).items())) or done.packages

    hung: Counter[str] = Counter()
    with Worlds() as worlds:
        for case in todo:
            seconds = options.seconds if hung[case.scenario.name] < PATIENT else min(LESS, options.seconds)
            result = run.run([case], replace(options, seconds=seconds), watch=watch, worlds=worlds)
            if result.interrupted:
                break
            hung[case.scenario.name] += prove_rows.hung(result.cases[0])
    done.cells = [unfinished.cells[key] for key in keys.values() if key in unfinished.cells]
    return done


def _command(target: Target, models: Sequence[str], ways: Sequence[str]) -> str:
    all_models = len(models) == len(catalog.names())
    parts = ["python -m tpscope.report.prove_sweep --only", target.id]
    parts += [] if all_models else ["--models", ",".join(models)]
    parts += [] if tuple(ways) == SCENARIOS else ["--scenarios", ",".join(ways)]
    return " ".join(parts)


def _record(root: Path, done: _Done, command: str) -> None:
    """Put the cells of one framework into the file; other cells stay as they are."""
    rows = prove_rows.read(root)
    framework = done.cells[0].framework
    new = {(cell.framework, cell.model, cell.scenario) for cell in done.cells}
    kept = [row for row in rows if isinstance(row, Cell) and (row.framework, row.model, row.scenario) not in new]
    cells = sorted([*kept, *done.cells], key=_order)
    heads = {row.framework: row for row in rows if isinstance(row, Swept)}
    packages = done.packages or (heads[framework].packages if framework in heads else {})
    seconds = round(sum(cell.seconds for cell in cells if cell.framework == framework), 1)
    heads[framework] = Swept(
        framework=framework, packages=packages, torch_declared=done.torch_declared, seconds=seconds, **stamp(command)
    )
    prove_rows.write(root, [*(heads[name] for name in dict.fromkeys(cell.framework for cell in cells)), *cells])


def _order(cell: Cell) -> tuple[int, str, str, int]:
    known = cell.framework in FRAMEWORKS
    way = SCENARIOS.index(cell.scenario) if cell.scenario in SCENARIOS else len(SCENARIOS)
    return (FRAMEWORKS.index(cell.framework) if known else len(FRAMEWORKS), cell.framework, cell.model, way)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run the sweep or part of it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tpscope.report.prove_sweep", description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="frameworks or families, as in nemo,axolotl@0.19.0")
    parser.add_argument("--models", help="as in llama-3.1-8b,qwen3-8b; else the whole catalog")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="ways to train")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long one case may take")
    parser.add_argument("--fresh", action="store_true", help="run again what an earlier run has answered")
    parser.add_argument("--no-speed", action="store_true", help="leave the timed commands out")
    asked = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        wanted = asked.only.split(",") if asked.only else list(FRAMEWORKS)
        names = [name for name in FRAMEWORKS if name in wanted or name.partition("@")[0] in wanted]
        names += [name for name in wanted if "@" in name and name not in names]
        if not names:
            raise UserError(f"--only {asked.only}: known are {', '.join(FRAMEWORKS)}")
        models = asked.models.split(",") if asked.models else catalog.names()
        whole = not (asked.only or asked.models)
        if whole and not asked.no_speed:
            # First, since it is asked afresh: the sweep then finds these cells answered.
            prove_speed.measure(root, console)
        targets = [registry.parse(name) for name in names]
        options = Options(fresh=asked.fresh, seconds=asked.seconds)
        code = sweep(root, targets, models, asked.scenarios.split(","), options, console)
        if code == 0:
            if (root / study.ROWS).is_file():
                study.generate(root)
            pages.generate(root)
            console.print(f"written: {prove_rows.PROOFS}, and the pages and the study from it", highlight=False)
        return code
    except KeyboardInterrupt:
        return _stopped(console)
    except UserError as error:
        console.print(f"tpscope: {error}", markup=False)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
