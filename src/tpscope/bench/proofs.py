"""`--prove`: prove's plain, lora and accumulate cases on the devices of this machine; a verdict row a case."""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tpscope.bench.ranks import Ranks, leave
from tpscope.bench.rows import Entry, Journal, Setting
from tpscope.bench.session import Watchdog
from tpscope.language.layout import Lora
from tpscope.language.proof import ProofAnswer, ProofRequest, Scenario
from tpscope.language.verdict import Verdict
from tpscope.models.shrink import shrink

MODELS = ("llama-3.1-8b", "qwen3-8b", "mistral-7b")
DTYPES = ("float32", "bfloat16")
# As `tpscope prove` has them, held against its table by a test: its room needs packages that GPU machines may lack.
SCENARIOS = (
    Scenario(),
    Scenario("lora", lora=Lora(4, 8, ("all-linear",))),
    Scenario("accumulate", micro_batches=3),
)
# The relative error of a gradient that lacks one of two equal parts: a tolerance above it sees no missing sum.
_HALF = 0.5
# Worst first: what every rank must have said for a case to be equal.
_WORST = (Verdict.CRASHED, Verdict.UNSUPPORTED, Verdict.REFUSED, Verdict.DIFFERENT, Verdict.INCONCLUSIVE)


@dataclass(frozen=True)
class ProofCase:
    """One question, in one dtype."""

    model: str
    scenario: Scenario
    dtype: str

    @property
    def name(self) -> str:
        """How a user reads it."""
        return f"{self.model} {self.scenario.name} {self.dtype}"


def cases(models: list[str]) -> list[ProofCase]:
    """All cases, float32 first: its tolerances tell more."""
    return [ProofCase(model, scenario, dtype) for dtype in DTYPES for scenario in SCENARIOS for model in models]


def prove(ranks: Ranks, setting: Setting, options: argparse.Namespace, configs: dict[str, dict[str, Any]]) -> int:
    """Answer every case that has no row yet."""
    every = cases(list(configs))
    journal = Journal(options.out, f"prove {setting.framework} {setting.hardware}")
    began = ranks.first(journal.began(time.time()) if ranks.rank == 0 else None)
    if ranks.rank == 0:
        for order in journal.lost():
            why = journal.failure(order) or "the process ended without a word"
            died = ProofAnswer(setting.framework, every[order].model, every[order].scenario.name, ranks.size)
            died.verdict, died.sentence = Verdict.CRASHED, f"the process died in this case: {why}"
            journal.write(order, _row(setting, every[order], order, [died], 0.0))
    waiting = ranks.first(sorted(set(range(len(every))) - journal.finished()) if ranks.rank == 0 else None)
    watchdog = Watchdog(journal, ranks, options.case_seconds)
    for order in waiting:
        if ranks.first(time.time() - began) > options.budget_seconds:
            ranks.say(f"budget of {options.budget_seconds:.0f} s spent; {len(waiting) - waiting.index(order)} not run")
            break
        watchdog.case(order)
        if ranks.rank == 0:
            journal.note(Entry("started", journal.run, order, at=time.time()))
        started = time.monotonic()
        answer = _answer(every[order], ranks, setting, options, configs)
        if answer.verdict in (Verdict.CRASHED, Verdict.REFUSED, Verdict.UNSUPPORTED):
            journal.note(Entry("failed", journal.run, order, ranks.rank, answer.sentence[:600]))
        said = ranks.all(answer)
        watchdog.case(None)
        if ranks.rank == 0:
            made = _row(setting, every[order], order, said, time.monotonic() - started)
            journal.write(order, made)
            ranks.say(f"{order + 1}/{len(every)} {every[order].name}: {made['verdict']}: {made['sentence'][:500]}")
    ranks.say("end")
    leave()
    return 0


def _answer(
    case: ProofCase, ranks: Ranks, setting: Setting, options: argparse.Namespace, configs: dict[str, dict[str, Any]]
) -> ProofAnswer:

    folder = ranks.first(tempfile.mkdtemp(prefix="tpscope-proof-") if ranks.rank == 0 else None)
    framework, _, version = setting.framework.partition("@")
    roots = [str(Path(site).resolve()) for site in options.site or []] or [entry for entry in sys.path if entry]
    request = ProofRequest(
        framework=setting.framework, version=version, variant="", model=case.model,
        config=shrink(configs[case.model]).config, tp=ranks.size, scenario=case.scenario, roots=roots, folder=folder,
    )  # fmt: skip
    # Imported when it is needed: it imports much, and the framework with it.
    proof = importlib.import_module("tpscope.frameworks.inside.bench.proof")
    found: ProofAnswer = proof.prove(framework, request, dist.get_rank(), ranks.device, case.dtype)
    return found


def _row(setting: Setting, case: ProofCase, order: int, said: list[ProofAnswer], seconds: float) -> dict[str, Any]:
    """The row of one case: the worst verdict of any rank, and the parameter furthest off beside its tolerance."""
    worst = min(said, key=lambda one: _WORST.index(one.verdict) if one.verdict in _WORST else len(_WORST))
    compared = [row for row in worst.parameters if row.error is not None]
    blind = [row.name for row in compared if row.tolerance > _HALF]
    verdict, sentence = worst.verdict, worst.sentence.replace("on CPU", f"on {setting.hardware}")
    if verdict == Verdict.EQUAL and blind:
        verdict = Verdict.INCONCLUSIVE
        sentence = (
            f"nothing beyond rounding was seen; but in {case.dtype} rounding explains a missing half of the gradient "
            f"of {len(blind)} of {len(compared)} parameters"
        )
    furthest = max(compared, key=lambda row: (row.error or 0.0) / row.tolerance, default=None)
    return {
        "row": "proof",
        "framework": setting.framework,
        "model": case.model,
        "scenario": case.scenario.name,
        "layout": {"tp": setting.ranks},
        "dtype": case.dtype,
        "verdict": str(verdict),
        "sentence": sentence,
        "depth": str(worst.depth) if worst.depth else None,
        "parameters": len(worst.parameters),
        "different": [row.name for row in worst.parameters if not row.equal],
        "loss_error": _finite(worst.loss_error),
        "loss_tolerance": _finite(worst.loss_tolerance),
        "forward_error": _finite(worst.forward_error),
        "forward_tolerance": _finite(worst.forward_tolerance),
        "furthest": None
        if furthest is None
        else {"name": furthest.name, "error": _finite(furthest.error), "tolerance": _finite(furthest.tolerance)},
        "largest_tolerance": _finite(max((row.tolerance for row in compared), default=None)),
        "blind": blind,
        "ranks_agree": worst.ranks_agree,
        # Written where all proofs are in float64.
        "shims": [text.replace("float64", case.dtype) for text in worst.shims],
        "shallower": [
            {"depth": str(one.depth), "verdict": str(one.verdict), "sentence": one.sentence} for one in worst.shallower
        ],
        "error": None if worst.error is None else {"kind": worst.error.kind, "where": str(worst.error.where or "")},
        "model_class": worst.model_class,
        "hardware": setting.hardware,
        "backend": "gloo" if setting.rehearsal else "nccl",
        "torch": setting.torch,
        "packages": setting.packages,
        "rehearsal": setting.rehearsal,
        "order": order,
        "seconds": round(seconds, 2),
        "command": setting.command,
        "commit": setting.commit,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and torch.isfinite(torch.tensor(value)) else None
