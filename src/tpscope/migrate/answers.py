"""What both frameworks make of their files: compare's column of each, and what each trains with."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import tpscope
from tpscope.compare.run import Pool, Question
from tpscope.language.answer import Failure, FrameworkAnswer
from tpscope.language.layout import Layout
from tpscope.language.measured.trained import Trained
from tpscope.language.verdict import Status
from tpscope.migrate.checks import Side, fitted, intent
from tpscope.migrate.facts import facts, trained_on
from tpscope.migrate.job import Ranks
from tpscope.migrate.rows import row_of
from tpscope.migrate.source import number, stated
from tpscope.models.spec import Intent, ModelSpec

Say = Callable[[str, str], None]
STEPS, LONGEST = 200, 10_000
SECONDS = 120.0
_TRAINED = TypeAdapter(Trained)
_LENGTH = {
    "axolotl": ("max_steps", "num_epochs"), "nemo": ("step_scheduler.max_steps", "step_scheduler.num_epochs"),
}  # fmt: skip
_READ = ("batch", "optimizer", "schedule")
_SIZES = ("tensor_parallel_size", "context_parallel_size")
_CODE = ("experiments/trained.py", "proof/hf_axolotl.py", "proof/hf_axolotl_trainer.py")


@dataclass
class Answers:
    """One side: its layout on the ranks, its column (None where it has no layout), what it trains with or why not.

    `refused` is what the framework raised on the layout of the file, where `column` is that of its tp ranks alone.
    """

    side: Side
    layout: Layout | None = None
    column: FrameworkAnswer | None = None
    refused: FrameworkAnswer | None = None
    trained: Trained | None = None
    error: Failure | None = None
    shims: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> list[list[Any]]:
        """Name and number of dimensions of every parameter that trains."""
        rows = self.column.parameters if self.column else []
        return [[row.name, len(row.shape)] for row in rows if row.trainable]


def asked(
    sides: list[Side], spec: ModelSpec, world: int, steps: int, say: Say, fresh: bool = False
) -> list[Answers]:  # fmt: skip
    """Both sides' answers, asked side by side and kept for the next time. `steps`: the run that is looked at."""
    with Pool(say, fresh=fresh) as pool, ThreadPoolExecutor(len(sides)) as executor:
        pool.prepare([side.target for side in sides])
        found = list(executor.map(lambda side: _column(side, spec, world, pool), sides))
        # A side that names no parameters (it refuses the layout) is asked about those of the other.
        some = next((one.parameters for one in found if one.parameters), [])
        list(executor.map(lambda one: ask_trained(one, spec, one.parameters or some, world, steps, pool), found))
    return found


def steps_of(side: Side, ranks: Ranks, samples: int | None) -> int:
    """The length of the run that is looked at: the file's own, by its data where `samples` tells, or `STEPS`."""
    most, epochs = (number(stated(side.data, key)) for key in _LENGTH[side.kind])
    found = [most] if isinstance(most, int) and most > 0 else []
    each = facts(side.kind, side.data, ranks)["samples per step"]
    one_epoch = trained_on(side.kind, side.data, samples)
    if one_epoch and each:
        default = 10 if side.kind == "nemo" else 1
        found.append(math.ceil(one_epoch / each * float(epochs or default)))
    return min([*found, LONGEST]) if found else STEPS


def _column(side: Side, spec: ModelSpec, world: int, pool: Pool) -> Answers:
    found = Answers(side)
    wanted = intent(side)
    if wanted is None:
        return found
    found.layout = fitted(wanted, spec, world, side)
    found.column = pool.answers(_question(spec, found.layout, wanted), [side.target])[0]
    alone = Layout(tp=found.layout.tp, sequence_parallel=found.layout.sequence_parallel)
    if found.column.status is not Status.OK and found.layout != alone:
        found.refused = found.column
        found.column = pool.answers(_question(spec, alone, wanted), [side.target])[0]
    found.shims += found.column.shims
    return found


def _question(spec: ModelSpec, layout: Layout, wanted: Intent) -> Question:
    # Where a parameter lies and whether it trains does not depend on dropout, whose place compare does not read.
    lora = replace(wanted.lora, dropout=0.0) if wanted.lora else None
    return Question(spec, layout, lora, None, {"kind": wanted.kind, "settings": wanted.settings}, wanted.notes)


def ask_trained(
    one: Answers, spec: ModelSpec, parameters: list[Any], world: int, steps: int, pool: Pool
) -> None:  # fmt: skip
    """Fill in what a side trains with, where `parameters` ([name, dimensions]) train."""
    if not parameters:
        one.error = Failure("NoParameters", "neither framework laid the model out", "optimizer")
        return
    layout = one.layout or Layout()
    options = {
        "data": json.loads(json.dumps(about(one.side), default=str)), "steps": steps, "world": world,
        "others": layout.tp * layout.cp * layout.pp, "parameters": parameters,
    }  # fmt: skip
    question = Question(spec, Layout())
    answer = pool.kept_experiment("trained", question, one.side.target, options, SECONDS, _code())
    one.error = answer.error
    one.shims += answer.shims
    if answer.error is None:
        one.trained = _TRAINED.validate_python(answer.value)


def about(side: Side) -> dict[str, Any]:
    """What a file says of batch, optimizer and schedule."""
    if side.kind == "nemo":
        sections = ("step_scheduler", "optimizer", "lr_scheduler")
        return {key: value for key, value in side.data.items() if key in sections}
    rows = {key: row_of(side.kind, str(key)) for key in side.data}
    return {
        key: value for key, value in side.data.items()
        if key in _SIZES or ((row := rows[key]) is not None and row.section in _READ)
    }  # fmt: skip


@cache
def _code() -> str:
    """Names the code of the experiment: an answer of other code is not taken."""
    package = Path(tpscope.__file__).parent
    files = [package / "frameworks" / "inside" / name for name in _CODE]
    files.append(package / "language" / "measured" / "trained.py")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
