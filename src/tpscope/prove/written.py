"""Plans written in other formats and proven through their frameworks, recorded: results/plan_written.jsonl.

python -m tpscope.prove.written                              the families that are sharded wrongly, barely or not at all
python -m tpscope.prove.written phi-3-mini:nemo              these, the other rows stay; a folder counts by its name
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tpscope.errors import UserError
from tpscope.language.answer import to_json
from tpscope.plan import formats
from tpscope.plan.run import derive
from tpscope.prove.through import FRAMEWORKS, through

ROWS = Path("results/plan_written.jsonl")
TP = 2
MODELS = ("phi-3-mini", "olmo-2-7b", "deepseek-v3", "gpt-oss-20b", "qwen3-8b")


@dataclass
class Row:
    """One model in one format: where the plan is from, what the format cannot say, and the framework's verdict."""

    model: str
    form: str
    tp: int
    source: str = ""
    verdict: str = ""
    sentence: str = ""
    framework: str = ""
    dearer: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    rules: int = 0
    command: str = ""
    commit: str = ""
    date: str = ""
    hardware: str = "CPU"
    environment: dict[str, str] = field(default_factory=dict)


def row(model: str, form: str) -> Row:
    """Derive (no other source), write, and run through the framework."""
    result = derive(model, TP, _quiet, source="derived", form=form)
    found = Row(model, form, TP, environment=result.environment, date=datetime.date.today().isoformat())
    found.command = f"tpscope plan {Path(model).name} --tp {TP} --source derived --format {form}"
    if result.case is None or result.bad:
        found.sentence = result.answer.error or "no plan was proven"
        return found
    said = result.case.spelling
    found.source = result.case.source.value
    if said is not None:
        found.dearer, found.refused, found.rules = said.dearer, said.refused, len(said.rules)
    try:
        text = formats.write(result.case, form).text
        run = through(text, form, model, TP, FRAMEWORKS[form], _quiet)
    except UserError as error:
        found.sentence = str(error)
        return found
    found.framework, found.verdict, found.sentence = run.framework, run.verdict.value, run.sentence
    return found


def _quiet(kind: str, text: str) -> None:
    """Nobody watches."""


def main(asked: list[str]) -> None:
    """Write a row a model and format, at once."""
    console = Console()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows: dict[tuple[str, str], Row] = {}
    if ROWS.is_file():
        for line in ROWS.read_text(encoding="utf-8").splitlines():
            kept = Row(**json.loads(line))
            rows[kept.model, kept.form] = kept
    pairs = [tuple(item.rsplit(":", 1)) for item in asked] or [(m, f) for m in MODELS for f in FRAMEWORKS]
    for model, form in pairs:
        found = row(model, form)
        found.commit = commit
        rows[Path(model).name, form] = found
        found.model = Path(model).name
        ROWS.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(to_json(rows[key])) + "\n" for key in sorted(rows))
        ROWS.write_text(text, encoding="utf-8")
        left = f", refused: {'; '.join(found.refused)}" if found.refused else ""
        console.print(f"{model} {form}: {found.verdict} {found.sentence}{left}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main(sys.argv[1:])
