"""Question Q2, how a framework treats edge cases in custom models: each is compared and proved, under every framework.

python -m tpscope.report.experiments.edges                        all frameworks
python -m tpscope.report.experiments.edges --with nemo@0.7.0      one of them
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tpscope.compare.run import Pool, Question, compare
from tpscope.errors import UserError
from tpscope.frameworks.registry import Target
from tpscope.frameworks.world import Worlds
from tpscope.language.answer import Failure, FrameworkAnswer
from tpscope.language.layout import Layout
from tpscope.language.proof import ProofAnswer
from tpscope.models.read import read
from tpscope.models.spec import ModelSpec, architecture_of
from tpscope.prove import run, scenarios
from tpscope.prove.run import Options
from tpscope.report import prove_rows
from tpscope.report.experiments import asking
from tpscope.report.experiments.asking import ROOT, Asker
from tpscope.report.experiments.edge_rows import Edge
from tpscope.report.record import steady
from tpscope.report.runs import FRAMEWORKS

NAME = "edges"
PURPOSE = "Edge cases in custom models, compared and proved under every framework."
ASKED = (*FRAMEWORKS, "transformers@5.23.0")
# Four ranks on two cores, beside whatever else the machine does: a case that is only slow must not look hung.
SECONDS = 400.0
_SPEAKS = re.compile(r"tp[_ ]?plan|tensor[- ]parallel|\btp\b|no plan|not shard|replicat", re.I)
_LOUD = ("WARNING", "ERROR", "CRITICAL")


class Case(BaseModel):
    """One edge case as the file has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    says: str
    model: str = ""
    change: dict[str, Any] = {}
    config: dict[str, Any] = {}
    tp: int = 2
    control: bool = False

    @property
    def described(self) -> str:
        """The model in a few words."""
        changed = ", ".join(f"{key}={str(value).lower()}" for key, value in self.change.items())
        of = self.model or f"a {self.config['model_type']} config of our own"
        return f"{of} with {changed}" if changed else of

    def spec(self, root: Path = ROOT) -> ModelSpec:
        """The model. Raises UserError where it cannot be read."""
        slug = re.sub(r"\W+", "-", self.name)
        if self.config:
            kind, source = self.config["model_type"], "edges.toml"
            return ModelSpec(slug, architecture_of(self.config), kind, dict(self.config), source, "local")
        local = "/" in self.model
        spec, _ = read(str(root / self.model) if local else self.model, trust_remote_code=local)
        unknown = [key for key in self.change if key not in spec.config]
        if unknown:
            raise UserError(f"edges.toml, {self.name}: the config of {self.model} has no {', '.join(unknown)} to set")
        config = {**spec.config, **self.change}
        remote = spec.remote_code
        return ModelSpec(slug, spec.architecture, spec.model_type, config, spec.source, spec.status, remote)


@cache
def cases() -> tuple[Case, ...]:
    """All edge cases, in the order of the file."""
    text = (resources.files("tpscope.report.experiments") / "edges.toml").read_text(encoding="utf-8")
    return tuple(Case.model_validate(item) for item in tomllib.loads(text)["edge"])


def measure(asker: Asker, target: Target, chosen: Sequence[Case] | None = None) -> Iterator[Edge]:
    """Every edge case under one framework."""
    with Worlds() as worlds:
        for case in chosen if chosen is not None else cases():
            print(f"  {case.name}", flush=True)
            yield _edge(case, asker, target, worlds)


def _edge(case: Case, asker: Asker, target: Target, worlds: Worlds) -> Edge:
    spec = case.spec()
    column = compared(spec, case.tp, target, asker.pool)
    head = {**asker.head(target), "packages": dict(sorted(column.environment.get("packages", {}).items()))}
    row = Edge(
        **head, edge=case.name, says=case.says, model=case.described, tp=case.tp, control=case.control,
        status=column.status,
        level=column.selection.level, rules=sum(rule.matched > 0 for rule in column.plan),
        sharded_fraction=round(column.sharded_fraction, 4), warned=warning(column),
        ignored=list(dict.fromkeys(str(item.get("setting", item)) for item in column.ignored)),
        raised=_bare(column.error),
    )  # fmt: skip
    proof = proved(spec, case.tp, target, worlds)
    small = run.small(spec, scenarios.parse("plain"))
    row.proof = prove_rows.cell(proof, spec, small.config)
    # How long it took is a matter of the moment, and the row has its own date.
    row.proof.seconds = 0.0
    row.stopped = _bare(proof.error)
    return row


def compared(spec: ModelSpec, tp: int, target: Target, pool: Pool) -> FrameworkAnswer:
    """One column of a comparison."""
    return compare(Question(spec, Layout(tp=tp)), [target], pool).frameworks[0]


def proved(spec: ModelSpec, tp: int, target: Target, worlds: Worlds) -> ProofAnswer:
    """One plain proof."""
    found = run.prove([spec], [target], [scenarios.parse("plain")], [tp], Options(seconds=SECONDS), worlds=worlds)
    return found.cases[0]


def warning(column: FrameworkAnswer) -> str:
    """The first warning of a framework that speaks of its plan, "" if there is none."""
    told = (line.message for line in column.log if line.level in _LOUD and _SPEAKS.search(line.message))
    return steady(next(told, ""))[:300]


def _bare(error: Failure | None) -> Failure | None:
    return Failure(error.kind, steady(error.message), error.phase, error.where) if error else None


def main(arguments: Iterable[str] | None = None) -> int:
    """Ask every framework and record the rows. Returns the exit code."""
    asked = list(arguments) if arguments is not None else None
    return asking.main(NAME, PURPOSE, measure, asked, frameworks=ASKED)


if __name__ == "__main__":
    sys.exit(main())
