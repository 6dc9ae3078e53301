"""What the commands of all experiments share: their flags, warm frameworks, the digests of cited files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tpscope.compare.ask import Wishes, question
from tpscope.compare.run import Pool
from tpscope.errors import NoFramework, UserError
from tpscope.frameworks import overlay, registry
from tpscope.frameworks.registry import Target
from tpscope.language.evidence import sha256_of
from tpscope.language.measured.answer import ExperimentAnswer
from tpscope.report.citations import lines_of
from tpscope.report.experiments import store
from tpscope.report.experiments.rows import Measured
from tpscope.report.record import provenance
from tpscope.report.rows import File, Provenance
from tpscope.report.runs import FRAMEWORKS

ROOT = Path(__file__).resolve().parents[4]


class Asker:
    """Hands experiments to warm frameworks, one at a time, and knows what every row says of its making."""

    def __init__(self, name: str, pool: Pool, made: Provenance | None = None):
        self.name = name
        self.pool = pool
        self.made = made or provenance()

    def ask(
        self, module: str, target: Target, model: str, options: dict[str, Any], seconds: float = 300.0, **wishes: Any
    ) -> ExperimentAnswer:
        """What `inside/experiments/MODULE.py` answers about a model at TP=2, or at the layout of `wishes`."""
        asked = question(model, Wishes(**{"tp": 2, **wishes}))
        return self.pool.experiment(module, asked, target, options, seconds)

    def head(self, target: Target, answer: ExperimentAnswer | None = None) -> dict[str, Any]:
        """The fields that every row has: `Cost(**asker.head(target, answer), ...)`."""
        said = answer.error if answer else None
        return {
            "framework": target.id, "command": command(self.name, target.id), "made": self.made,
            "packages": dict(sorted(answer.packages.items())) if answer else {},
            "shims": list(answer.shims) if answer else [], "failed": f"{said.kind}: {said.message}" if said else "",
        }  # fmt: skip


def command(name: str, framework: str) -> str:
    """The command that repeats the rows of one framework."""
    return f"python -m tpscope.report.experiments.{name} --with {framework}"


def with_files(row: Measured, target: Target) -> Measured:
    """The row with the length and the digest of every source file that its lines stand in."""
    found = overlay.installed(target)
    paths = sorted({item.path for item in lines_of(row)})
    if found is not None:
        there = [(path, found.path / path) for path in paths if (found.path / path).is_file()]
        row.files = [
            File(path, len(file.read_text(encoding="utf-8").splitlines()), sha256_of(file)) for path, file in there
        ]
    return row


def main(
    name: str, purpose: str, measure: Callable[[Asker, Target], Iterable[Measured]],
    arguments: Sequence[str] | None = None, root: Path = ROOT, frameworks: Sequence[str] = FRAMEWORKS,
) -> int:  # fmt: skip
    """Ask each framework and record its rows as soon as they are there. Returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m tpscope.report.experiments.{name}", description=purpose)
    parser.add_argument("--with", dest="frameworks", action="append", help="a framework version, as nemo@0.7.0; repeat")
    parser.add_argument("--root", type=Path, default=root, help="the checkout whose results/ are written")
    asked = parser.parse_args(arguments)
    try:
        targets = [registry.parse(text) for text in asked.frameworks or frameworks]
        with Pool(lambda kind, text: print(text) if kind == "install" else None) as pool:
            asker = Asker(name, pool)
            for target in targets:
                print(command(name, target.id), flush=True)
                rows = [with_files(row, target) for row in measure(asker, target)]
                store.record(asked.root, rows)
    except (UserError, NoFramework) as error:
        print(f"tpscope: {error}", file=sys.stderr)
        return error.exit_code
    return 0
