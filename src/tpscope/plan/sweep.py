"""Third part of `make sweep`: every causal-LM family of the installed transformers, derived and proven at tp 2 and 4.

python -m tpscope.plan.sweep                     all of them, into results/plan.jsonl
python -m tpscope.plan.sweep --only llama,gpt2   these, the other rows stay
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata as metadata
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tpscope.language.answer import to_json
from tpscope.language.verdict import Verdict
from tpscope.plan.result import PlanAnswer, PlanRequest
from tpscope.plan.run import ask

ROWS = Path("results/plan.jsonl")
RANKS = (2, 4)
SECONDS = 150
_NAMES = (
    "from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as names;"
    "print(*names, sep='\\n')"
)


@dataclass
class Row:
    """One family in the table. `verdicts`, `fractions`: by tp. `stands`: what stands in the way of more."""

    model_type: str
    architecture: str
    verdicts: dict[str, str] = field(default_factory=dict)
    fractions: dict[str, float] = field(default_factory=dict)
    proven: bool = False
    regions: list[str] = field(default_factory=list)
    summed: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    controls: str = ""
    stands: list[str] = field(default_factory=list)
    seconds: float = 0.0
    command: str = "python -m tpscope.plan.sweep"
    commit: str = ""
    date: str = ""
    hardware: str = "CPU"
    environment: dict[str, str] = field(default_factory=dict)


def row(answer: PlanAnswer, environment: dict[str, str], commit: str) -> Row:
    """The row of one family. Proven: equal at every number of ranks, weights of the layers cut, every control seen."""
    found = Row(answer.model_type, answer.architecture, seconds=answer.seconds, commit=commit, environment=environment)
    found.date = datetime.date.today().isoformat()
    seen = total = 0
    for case in answer.cases:
        found.verdicts[str(case.tp)] = case.proof.verdict.value
        found.fractions[str(case.tp)] = round(case.fraction, 4)
        seen += sum(case.proof.controls.values())
        total += len(case.proof.controls)
        if case.proof.error:
            found.stands.append(f"tp {case.tp}: {case.proof.error}")
        elif case.proof.wrong:
            found.stands.append(f"tp {case.tp}: wrong gradients of {', '.join(list(case.proof.wrong)[:3])}")
    if answer.error:
        found.stands.append(answer.error)
    if answer.cases:
        plan = answer.cases[-1].plan
        found.regions = [f"{region.kind.value} {region.exits[0]}" for region in plan.regions]
        found.summed = [name for region in plan.regions for name, share in region.shares.items() if share.summed]
        found.settings = [f"{name} / {by}" for region in plan.regions for name, by in region.settings.items()]
        found.stands += [f"{item.pattern}: {item.why}" for item in plan.whole[:4]]
    found.controls = f"{seen} of {total}"
    inner = any(region.kind == "sum" for case in answer.cases for region in case.plan.regions)
    equal = len(answer.cases) == len(RANKS) and all(case.proof.verdict is Verdict.EQUAL for case in answer.cases)
    found.proven = equal and inner and seen == total
    return found


def families() -> list[str]:
    """Model types that the installed transformers has a causal LM for."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _NAMES], capture_output=True, text=True, check=True)
    return done.stdout.split()


def main() -> None:
    """Ask for every family and write its row at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="model types, with commas")
    wanted = [name for name in parser.parse_args().only.split(",") if name]
    console = Console()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    environment = {name: metadata.version(name) for name in ("torch", "transformers")}
    rows: dict[str, Row] = {}
    if ROWS.is_file():
        for line in ROWS.read_text(encoding="utf-8").splitlines():
            tree = json.loads(line)
            rows[tree["model_type"]] = Row(**tree)
    names = wanted or families()
    with tempfile.TemporaryDirectory() as folder:
        requests = [PlanRequest(RANKS, model_type=name) for name in names]
        for name, answer in zip(names, ask(requests, Path(folder), SECONDS), strict=False):
            answer.model_type = name
            rows[name] = row(answer, environment, commit)
            text = "".join(json.dumps(to_json(rows[key])) + "\n" for key in sorted(rows))
            ROWS.parent.mkdir(parents=True, exist_ok=True)
            ROWS.write_text(text, encoding="utf-8")
            said = "proven" if rows[name].proven else "; ".join(rows[name].stands[:1])
            console.print(f"{name}: {said} {rows[name].fractions} {answer.seconds} s", highlight=False, soft_wrap=True)
    proven = sum(item.proven for item in rows.values())
    console.print(f"{proven} of {len(rows)} families derived and proven at tp {RANKS}")


if __name__ == "__main__":
    main()
