"""What to change, found by trying: a setting less, or another version of the same framework that is installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tpscope.check.layout import axis_key
from tpscope.check.result import Finding, Severity
from tpscope.compare.run import Pool, Question
from tpscope.frameworks import overlay
from tpscope.frameworks.registry import Target
from tpscope.language.answer import FrameworkAnswer
from tpscope.language.proof import ProofAnswer, Scenario
from tpscope.language.verdict import Status, Verdict
from tpscope.models.spec import Intent

SECONDS = 20.0
Proven = Callable[[Target], Verdict | None]
"""The verdict of the file's plain case under another version, None where nothing is proved."""


@dataclass
class Tries:
    """What was tried and what came of it, with the time that is left for more: it runs from the first try."""

    seconds: float = SECONDS
    said: list[str] = field(default_factory=list)
    started: float | None = None

    @property
    def over(self) -> bool:
        """True once no more may be tried."""
        self.started = self.started or time.monotonic()
        return time.monotonic() - self.started > self.seconds

    def note(self, what: str, came: str) -> None:
        """Keep what was tried, for the answer."""
        self.said.append(f"{what}: {came}")


def versions(target: Target) -> list[Target]:
    """Other versions of a target's framework that are installed, newest first."""
    numbers = [number for number in reversed(target.family.versions) if number != target.version]
    found = [Target(target.family, number, target.variant) for number in numbers]
    return [other for other in found if overlay.installed(other) is not None]


def runs(column: FrameworkAnswer) -> bool:
    """True if nothing stops a column before its first optimizer step."""
    empty = column.lora.requested and not column.lora.modules
    return column.status is Status.OK and column.loop_error is None and not empty


def ways_out(question: Question, target: Target, intent: Intent, pool: Pool, tries: Tries, proven: Proven) -> list[str]:
    """Changes after which compare finds that it runs: at most one of a setting and one of a version.

    A version must be proven equal where something is sharded over tp.
    """
    found: list[str] = []
    for words, changed in _settings(question, intent):
        if tries.over:
            return found
        column = pool.answers(changed, [target])[0]
        tries.note(words, "runs" if runs(column) else "does not run either")
        if runs(column):
            found.append(words)
            break
    for other in versions(target):
        if tries.over:
            break
        pool.prepare([other])
        column = pool.answers(question, [other])[0]
        if not runs(column):
            tries.note(other.id, "does not run it either")
            continue
        # A version that runs and trains another model is no way out.
        verdict = proven(other)
        tries.note(other.id, f"runs, {verdict}" if verdict else "runs, not proven")
        if verdict == Verdict.EQUAL or question.layout.tp == 1:
            found.append(f"take {other.id}: it runs there" + (f" and is {verdict}" if verdict else ""))
            break
    return found


def adaptable(question: Question, target: Target, finding: Finding, pool: Pool, tries: Tries) -> list[str]:
    """Names of the Linear layers that an adapter can take, where a finding says that it found none of those named."""
    if question.lora is None or "target modules" not in finding.why.lower():
        return []
    column = pool.answers(replace(question, lora=None), [target])[0]
    tries.note("without the adapter", "runs" if runs(column) else "does not run either")
    return linear_names(column)


def linear_names(column: FrameworkAnswer) -> list[str]:
    """Last names of the modules with a weight matrix inside the layers of a model."""
    found = [
        row.name.removesuffix(".weight").rpartition(".")[2]
        for row in column.parameters
        if len(row.shape) == 2 and row.name.endswith(".weight") and ".layers." in row.name and "lora_" not in row.name
    ]
    return list(dict.fromkeys(found))


def _settings(question: Question, intent: Intent) -> Iterator[tuple[str, Question]]:
    layout = question.layout
    if question.lora is not None and layout.tp > 1:
        peft = "adapter" if intent.kind == "axolotl" else "peft"
        if question.lora.dropout and intent.kind == "nemo" and question.lora.dropout_position != "pre":
            before = replace(question.lora, dropout_position="pre")
            yield "write peft.dropout_position: pre (dropout before A, as PEFT does it)", replace(question, lora=before)
        yield f"take {peft} out (train all weights)", replace(question, lora=None)
    if layout.dp_shard > 1 and layout.tp > 1:
        key = "fsdp_config and dp_shard_size" if intent.kind == "axolotl" else axis_key(intent.kind, "dp_shard")
        yield f"tp without FSDP: take {key} out", replace(question, layout=replace(layout, dp_shard=1))
    if layout.sequence_parallel:
        changed = replace(question, layout=replace(layout, sequence_parallel=False))
        yield "write sequence_parallel: false", changed
    for axis in ("cp", "pp"):
        if getattr(layout, axis) > 1:
            key = axis_key(intent.kind, axis).rpartition(".")[2]
            alone: dict[str, Any] = {axis: 1}
            yield f"write {key}: 1", replace(question, layout=replace(layout, **alone))
    if layout.tp > 1:
        key = axis_key(intent.kind, "tp").rpartition(".")[2]
        wider = replace(layout, tp=1, dp_shard=layout.dp_shard * layout.tp)
        shard = "dp_shard_size" if intent.kind == "axolotl" else "dp_size"
        yield f"write {key}: 1 and shard by FSDP over all ranks ({shard})", replace(question, layout=wider)


def without(found: list[Finding], cases: list[ProofAnswer]) -> None:
    """Add to findings of one scenario that the plain case is equal, where it is."""
    plain = next((case for case in cases if case.scenario == "plain"), None)
    if plain is None or plain.verdict is not Verdict.EQUAL:
        return
    for finding in found:
        shown = finding.what.rpartition(" ")[2].split(",")
        if finding.source == "prove" and finding.severity is Severity.ERROR and "plain" not in shown and finding.key:
            more = f"without {finding.key} it is equal (plain is)"
            finding.remedy = f"{finding.remedy}; or {more}" if finding.remedy else more


def scenario_of(case: ProofAnswer, asked: list[tuple[Scenario, int]]) -> tuple[Scenario, int]:
    """The question that a case answered."""
    return next(item for item in asked if item[0].name == case.scenario)
