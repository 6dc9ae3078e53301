"""What others publish of their own runs, predicted from what their pages state: results/published.json.

    python -m tpscope.price.published

Rows with every setting and their sources stand in published.toml. Nothing is calibrated on them. What a page states and
no trace has (compiled code, asynchronous TP) is a difference that is said; what cannot be modelled is not predicted.
"""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator

from tpscope.compare.ask import Wishes, question
from tpscope.compare.run import Pool
from tpscope.frameworks import registry
from tpscope.language.layout import Layout
from tpscope.price import hardware
from tpscope.price.cost import PHASES, parts_of, queued
from tpscope.price.memory import memory_cost
from tpscope.price.run import fits
from tpscope.price.trace import Step, traced

FILE = Path("results/published.json")


class Row(BaseModel):
    """One published figure with its settings.

    `recompute` and `float8` are empty where there is none, `loss` where it is the default of the column that stands
    for the row. `differs` are differences from what is traced that no field says; `reason` is why it is not predicted.
    Tokens a second are per GPU, `seconds` those of a global step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    repository: str
    commit: str
    path: str
    line: int
    text: str
    settings: str
    name: str
    machine: str
    gpus: int
    layout: dict[str, Any]
    batch: int
    sequence: int
    tokens_per_second: float
    framework: str
    hardware: str
    model: str = ""
    sequence_parallel: bool = False
    micro_batches: int = 1
    recompute: str = ""
    loss: str = ""
    compile: bool = False
    async_tp: bool = False
    float8: str = ""
    lora: str = ""
    seconds: float | None = None
    memory_gib: float | None = None
    mfu: float | None = None
    differs: tuple[str, ...] = ()
    reason: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Row:
        if Layout(**self.layout).world != self.gpus:
            raise ValueError(f"{self.path}:{self.line}: the layout is not of {self.gpus} GPUs")
        return self

    @property
    def unmodelled(self) -> str:
        """Why there is no prediction; empty if there is."""
        if self.reason:
            return self.reason
        if self.float8:
            return f"float8 ({self.float8}) products are not modelled"
        return ""

    @property
    def differences(self) -> list[str]:
        """What is there and not in the trace that stands for it."""
        theirs = self.repository.partition("/")[2]
        found = [] if self.framework.startswith("nemo") and theirs == "Automodel" else [f"{theirs}'s own model there"]
        found += ["compiled there, eager here"] if self.compile else []
        found += ["asynchronous TP there, none here"] if self.async_tp else []
        if theirs == "torchtitan" and self.recompute == "full":
            found.append("whole layers are made again there, their parts here, which keeps what stands between them")
        return [*found, *self.differs]


@dataclass
class Predicted:
    """One row beside its prediction: tokens per second and GPU, seconds of a global step, GiB and whether they fit; or
    why there is none."""

    row: Row
    why: str = ""
    tokens_per_second: float | None = None
    seconds: float | None = None
    memory_gib: float | None = None
    fits: bool | None = None
    bound: str = ""
    standing: str = ""
    differs: list[str] = field(default_factory=list)

    @property
    def error(self) -> float | None:
        """Of tokens a second, relative to what is published."""
        return None if self.tokens_per_second is None else self.tokens_per_second / self.row.tokens_per_second - 1


@dataclass
class Published:
    """All rows, the command that predicted them, and what every price on one of their machines takes for granted."""

    command: str = "python -m tpscope.price.published"
    rows: list[Predicted] = field(default_factory=list)
    assumed: dict[str, list[str]] = field(default_factory=dict)


def rows() -> list[Row]:
    """Every published row, with what holds for its whole page."""
    text = (resources.files("tpscope.price") / "published.toml").read_text(encoding="utf-8")
    found = []
    for page in tomllib.loads(text)["page"]:
        common = {key: value for key, value in page.items() if key != "row"}
        for one in page["row"]:
            merged: dict[str, Any] = {**common, **one}
            merged["differs"] = (*common.get("differs", ()), *one.get("differs", ()))
            merged["framework"] = merged.pop("with")
            found.append(Row.model_validate(merged))
    return found


def predict(row: Row, pool: Pool) -> Predicted:
    """The step of a row, traced and priced on the machine that comes nearest."""
    if row.unmodelled:
        return Predicted(row, row.unmodelled)
    target, machine = registry.parse(row.framework), hardware.machine(row.hardware)
    asked = question(row.model, Wishes(**row.layout, sequence_parallel=row.sequence_parallel, lora=row.lora or None))
    pool.prepare([target])
    found = traced(asked, target, pool, Step(row.batch, row.sequence, row.loss, row.recompute))
    trace = found.trace
    error = found.error or (trace.stopped if trace else None)
    if trace is None or error is not None:
        return Predicted(row, f"{row.framework} does not run it: {error.message[:160] if error else ''}")
    parts, peak = parts_of(trace, machine, asked.layout), memory_cost(trace.memory).peak_bytes
    whole, bound = queued(parts)
    once, _ = queued(parts, PHASES[:-1])
    seconds = whole + (row.micro_batches - 1) * once
    layout = asked.layout
    tokens = row.batch * row.sequence * row.micro_batches / (layout.tp * layout.cp * layout.pp)
    return Predicted(
        row, "", round(tokens / seconds, 1), round(seconds, 3),
        round(peak / 2**30, 1), fits(peak, machine), bound.get("backward", ""),
        machine.standing(layout, row.batch * row.sequence), row.differences,
    )  # fmt: skip


def recorded_in(root: Path) -> Published | None:
    """What was predicted last; None if nothing was."""
    if not (root / FILE).is_file():
        return None
    return TypeAdapter(Published).validate_json((root / FILE).read_bytes())


def main() -> None:
    """Predict every row and record it."""
    machines = {name: hardware.machine(name) for name in dict.fromkeys(row.hardware for row in rows())}
    found = Published(assumed={name: machine.assumed for name, machine in machines.items() if machine.assumed})
    with Pool(lambda kind, text: None) as pool:
        for row in rows():
            found.rows.append(predict(row, pool))
            last = found.rows[-1]
            said = last.why or f"{last.tokens_per_second} tokens/s/GPU, published {row.tokens_per_second}"
            print(f"{row.name} ({row.path}:{row.line}): {said}", file=sys.stderr, flush=True)
    tree = asdict(found)
    for one, last in zip(tree["rows"], found.rows, strict=True):
        one["row"] = last.row.model_dump()
    FILE.write_text(f"{json.dumps(tree, indent=1)}\n", encoding="utf-8")
    print(f"written: {FILE}")


if __name__ == "__main__":
    main()
