"""The ranks of one run: group, watchdog, and the loop over cases in which a case that dies costs only itself."""

from __future__ import annotations

import faulthandler
import gc
import io
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tpscope.bench.cases import Build, Case
from tpscope.bench.ranks import Ranks
from tpscope.bench.rows import Entry, Journal, Result, Setting, row
from tpscope.frameworks.inside.bench import subject as subjects
from tpscope.frameworks.inside.bench.measure import Asked, forget, measure
from tpscope.frameworks.inside.bench.quiet import Cores
from tpscope.frameworks.inside.bench.subject import Subject, Wanted
from tpscope.language.sharding import Sharding

GRACE_SECONDS = 15.0
AGAIN = 75


class Watchdog:
    """Ends this process when its case takes too long, or goes on after another rank has failed: torchrun then starts
    all ranks again, and they go on with the next case."""

    def __init__(self, journal: Journal, ranks: Ranks, seconds: float):
        self.journal, self.ranks, self.seconds = journal, ranks, seconds
        self._order: int | None = None
        self._since = 0.0
        self._guard = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def case(self, order: int | None) -> None:
        """The case that starts now, or None between two."""
        with self._guard:
            self._order, self._since = order, time.monotonic()

    def _watch(self) -> None:
        told = 0.0
        while True:
            time.sleep(1.0)
            with self._guard:
                order, since = self._order, self._since
            if order is None:
                told = 0.0
                continue
            if time.monotonic() - since > self.seconds:
                self._end(order, f"no end after {self.seconds:.0f} s")
            others = [entry for entry in self.journal.entries() if entry.what == "failed" and entry.order == order]
            if any(entry.rank != self.ranks.rank for entry in others):
                told = told or time.monotonic()
                if time.monotonic() - told > GRACE_SECONDS:
                    self._end(order, "waited for a rank that had failed")

    def _end(self, order: int, why: str) -> None:
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        self.journal.note(Entry("failed", self.journal.run, order, self.ranks.rank, why))
        os._exit(AGAIN)


@dataclass
class Plan:
    """What a run is to do: a framework family, its cases in their order, the configs of their models and, for an engine
    that is given one, their plans."""

    family: str
    cases: Sequence[Case]
    configs: dict[str, dict[str, Any]]
    setting: Setting
    warmup: int = 2
    repeats: int = 7
    case_seconds: float = 120.0
    budget_seconds: float = 1e9
    plans: dict[str, Sharding] = field(default_factory=dict)


class Session:
    """One process over all cases of one framework version."""

    def __init__(self, plan: Plan, ranks: Ranks, journal: Journal):
        self.plan, self.ranks, self.journal = plan, ranks, journal
        self._subject: Subject | None = None
        self._build: Build | None = None
        # A rehearsal has no cores to spare.
        self._cores = Cores(ranks.rank, ranks.size if ranks.device.type == "cuda" else sys.maxsize)

    def run(self) -> None:
        """Every case that has no row yet, in order, until the budget is spent."""
        plan, ranks = self.plan, self.ranks
        began = ranks.first(self.journal.began(time.time()) if ranks.rank == 0 else None)
        if ranks.rank == 0:
            for order in self.journal.lost():
                why = self.journal.failure(order) or "the process ended without a word"
                self._write(order, Result(error=f"the process died in this case: {why}"))
        waiting = ranks.first(
            sorted(set(range(len(plan.cases))) - self.journal.finished()) if ranks.rank == 0 else None
        )
        watchdog = Watchdog(self.journal, ranks, plan.case_seconds)
        for order in waiting:
            spent = ranks.first(time.time() - began)
            if spent > plan.budget_seconds:
                left = [plan.cases[index].name for index in waiting[waiting.index(order) :]]
                ranks.say(f"budget of {plan.budget_seconds:.0f} s spent; not run: {'; '.join(left)}")
                break
            watchdog.case(order)
            self._one(order)
            watchdog.case(None)
        self._drop()

    def _one(self, order: int) -> None:
        case, ranks = self.plan.cases[order], self.ranks
        if ranks.rank == 0:
            self.journal.note(Entry("started", self.journal.run, order, at=time.time()))
        ranks.together()
        started, mine, error = time.monotonic(), None, None
        try:
            subject = self._ready(case.build)
            loss = case.loss or subject.losses()[0]
            warmup = self.plan.warmup + (1 if case.build.compiled else 0)
            asked = Asked(case.batch, case.sequence, loss, warmup, self.plan.repeats)
            mine = measure(subject, asked, ranks, self._cores).plain()
        except Exception as problem:  # noqa: BLE001 - whatever a framework raises is the answer of this case
            error = told(problem)
            self.journal.note(Entry("failed", self.journal.run, order, ranks.rank, error))
            # The traceback's frames hold the tensors of the step that failed.
            traceback.clear_frames(problem.__traceback__)
        said = ranks.all((mine, error))
        errors = [f"rank {rank}: {text}" for rank, (_, text) in enumerate(said) if text]
        result = Result([found for found, _ in said if found and not errors], "; ".join(errors) or None)
        result.layers = int(self.plan.configs[case.build.model].get("num_hidden_layers", 0))
        if self._subject is not None:
            result.loss = case.loss or self._subject.losses()[0]
            result.compile_by = self._subject.compile_by
        self._write(order, result, time.monotonic() - started)
        if errors:
            self._drop()
            self._sound()

    def _ready(self, build: Build) -> Subject:
        """The model of a case: the one at hand, or a new one. What torch.compile knew of other shapes is forgotten, as
        it is in a run that trains on one shape."""
        if build.compiled:
            torch._dynamo.reset()
        if self._subject is not None and self._build == build:
            return self._subject
        self._drop()
        torch.manual_seed(self.plan.setting.seed)
        config = self.plan.configs[build.model]
        wanted = Wanted(
            config, build.tp, build.sequence_parallel, build.compiled, self.plan.setting.dtype,
            self.plan.plans.get(build.model),
        )  # fmt: skip
        started = time.monotonic()
        self._subject = subjects.build(self.plan.family, wanted, self.ranks.device)
        self._build = build
        self.ranks.say(f"built {build} in {time.monotonic() - started:.1f} s")
        return self._subject

    def _drop(self) -> None:
        """Let go of the model at hand and of what the allocator keeps."""
        if self._subject is not None:
            forget(self._subject)
        self._subject = self._build = None
        torch._dynamo.reset()
        gc.collect()
        if self.ranks.device.type == "cuda":
            torch.cuda.empty_cache()

    def _sound(self) -> None:
        """After a failure: end this process if the device does not answer any more, so that a new one goes on."""
        try:
            torch.ones(1, device=self.ranks.device).add_(1).item()
        except RuntimeError as problem:  # an illegal access leaves every later call with its error
            print(f"[bench] rank {self.ranks.rank}: no answer from the device, starting again: {problem}", flush=True)
            os._exit(AGAIN)

    def _write(self, order: int, result: Result, seconds: float = 0.0) -> None:
        if self.ranks.rank != 0:
            return
        case = self.plan.cases[order]
        made = row(self.plan.setting, case, order, result)
        self.journal.write(order, made)
        self.ranks.say(f"{len(self.journal.finished())}/{len(self.plan.cases)} {summary(made)} ({seconds:.0f} s)")


def summary(made: dict[str, Any]) -> str:
    """A row in one line of a log."""
    head = f"{made['framework']} {made['model']} tp={made['layout']['tp']}"
    head += " sp" if made["layout"]["sequence_parallel"] else ""
    head += (" compiled" if made["compiled"] else "") + f" seq={made['sequence']} {made['loss']}"
    if made["error"]:
        return f"{head}: ERROR {made['error'][:600]}"
    times, step = made["milliseconds"], made["optimizer_milliseconds"]
    parts = [f"{times['median']:.1f} ms [{times['low']:.1f} {times['high']:.1f}]"]
    said = made["disturbed"]
    parts += (
        [f"{said['left_out']} repeats left out of {times['repeats'] + said['left_out']}"] if said["repeats"] else []
    )
    parts.append(f"peak {made['memory']['peak_bytes'] / 2**30:.2f} GiB, loss {made['loss_value']:.4f}")
    parts.append(f"optimizer {step['median']:.1f} ms" if step else "no optimizer step")
    parts += [f"default optimizer raised {made['optimizer_error'][:120]}"] if made["optimizer_error"] else []
    return f"{head}: {', '.join(parts)}"


def told(problem: BaseException) -> str:
    """An exception with the innermost lines of its traceback, in one string."""
    out = io.StringIO()
    traceback.print_exception(problem, limit=-4, file=out)
    return (
        f"{type(problem).__name__}: {' '.join(str(problem).split())[:500]} | {' '.join(out.getvalue().split())[-900:]}"
    )
