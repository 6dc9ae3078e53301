"""Ask every framework about one model and one layout, and lay the answers side by side."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from tpscope.compare.differences import find
from tpscope.compare.result import Comparison, Model
from tpscope.errors import NoFramework
from tpscope.frameworks import runner
from tpscope.frameworks.pins import declared_ranges, outside_pins
from tpscope.frameworks.registry import Target
from tpscope.frameworks.targets import environment
from tpscope.language.answer import FrameworkAnswer, Request
from tpscope.language.layout import Layout, Lora
from tpscope.language.measured.answer import ExperimentAnswer
from tpscope.models.shrink import shrink
from tpscope.models.spec import ModelSpec

Say = Callable[[str, str], None]
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Question:
    """What is compared: a model, a layout, and what the user wants besides."""

    model: ModelSpec
    layout: Layout
    lora: Lora | None = None
    custom_plan: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Pool:
    """Warm workers by target, shared by many questions. At most two frameworks run at a time."""

    def __init__(self, say: Say, fresh: bool = False, parallel: int = 2):
        self.say = say
        self.fresh = fresh
        self._workers: dict[str, runner.Worker] = {}
        self._environments: dict[str, runner.Environment] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._executor = ThreadPoolExecutor(parallel)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        runner.close_all(self._workers.values())

    def prepare(self, targets: list[Target]) -> None:
        """Install what is missing, one after the other, so that downloads do not compete."""
        for target in targets:
            if target.id not in self._environments:
                self._environments[target.id] = environment(target, lambda text: self.say("install", text))

    def answers(self, question: Question, targets: list[Target]) -> list[FrameworkAnswer]:
        """One answer a target, in order; side by side, from the cache where the same was asked before."""
        return list(self._executor.map(lambda target: self._answer(question, target), targets))

    def _answer(self, question: Question, target: Target) -> FrameworkAnswer:
        where = self._environments[target.id]
        request = _request(question, target)
        kept = runner.cached(request, where)
        answer = None if self.fresh else runner.recall(kept)
        if answer is None:
            with self._guard:
                lock = self._locks.setdefault(target.id, threading.Lock())
            with lock:
                self.say("run", target.id)
                answer = self._worker(target, where).ask(request)
                runner.keep(kept, answer)
        packages = answer.environment.get("packages", {})
        answer.environment["declared"] = declared_ranges(packages, where.declared)
        answer.environment["outside_pin"] = outside_pins(packages, where.declared)
        self.say("done", target.id)
        return answer

    def experiment(
        self, module: str, question: Question, target: Target, options: dict[str, Any], seconds: float = runner.SECONDS
    ) -> ExperimentAnswer:
        """What `frameworks/inside/experiments/MODULE.py` answers about a question. Never cached, one at a time."""
        self.prepare([target])
        where = self._environments[target.id]
        with self._guard:
            return self._worker(target, where).experiment(module, _request(question, target), options, seconds)

    def kept_experiment(
        self, module: str, question: Question, target: Target, options: dict[str, Any], seconds: float, code: str
    ) -> ExperimentAnswer:
        """An experiment whose answer does not depend on the moment: kept, side by side with those of other targets.
        `code` names the code of the experiment."""
        where = self._environments[target.id]
        request = _request(question, target)
        kept = runner.cached(request, where, json.dumps([module, options, code], sort_keys=True))
        answer = None if self.fresh else runner.recall_experiment(kept)
        if answer is None:
            with self._guard:
                lock = self._locks.setdefault(target.id, threading.Lock())
            with lock:
                self.say("run", target.id)
                answer = self._worker(target, where).experiment(module, request, options, seconds)
                runner.keep(kept, answer)
        self.say("done", target.id)
        return answer

    def each(self, call: Callable[[Target], _Result], targets: list[Target]) -> list[_Result]:
        """What a call gives for every target, in order, side by side."""
        return list(self._executor.map(call, targets))

    def _worker(self, target: Target, where: runner.Environment) -> runner.Worker:
        worker = self._workers.get(target.id)
        if worker is None or not worker.alive:
            worker = self._workers[target.id] = runner.Worker(target, where)
        return worker


def compare(question: Question, targets: list[Target], pool: Pool) -> Comparison:
    """The comparison of one question. Raises NoFramework if no column could be run at all."""
    pool.prepare(targets)
    columns = pool.answers(question, targets)
    if all(column.error is not None and column.error.kind in ("ImportError", "ProcessDied") for column in columns):
        words = "; ".join(f"{column.id}: {column.error.message}" for column in columns if column.error)
        raise NoFramework(f"no framework could be run: {words}")
    spec = question.model
    model = Model(spec.name, spec.architecture, spec.model_type, spec.source, spec.status, spec.config)
    layout = {**question.layout.sizes, "world": question.layout.world}
    layout["sequence_parallel"] = question.layout.sequence_parallel
    lora = asdict(question.lora) if question.lora else None
    return Comparison(model, layout, columns, find(columns), lora, list(question.notes))


def _request(question: Question, target: Target) -> Request:
    remote = question.model.remote_code
    training: dict[str, Any] = dict(question.settings)
    if remote is None:
        training["small_config"] = shrink(question.model.config).config
    else:
        # Custom code reads its own keys: shrinking them blindly could make another model of it.
        training["small_config"] = question.model.config
    return Request(
        framework=target.id, version=target.version, variant=target.variant, model=question.model.name,
        config=question.model.config, layout=question.layout, lora=question.lora, custom_plan=question.custom_plan,
        remote_code=str(remote) if remote else None, training=training,
    )  # fmt: skip
