"""One rank of one case: from a request file to an answer file."""

from __future__ import annotations

import contextlib
import datetime
import faulthandler
import importlib
import io
import json
import os
import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tpscope.frameworks.inside.case import Refused, listening, packages, status_of
from tpscope.frameworks.inside.proof.driver import Driver, Work
from tpscope.frameworks.inside.proof.verdict import prove
from tpscope.frameworks.inside.proof.weights import settled
from tpscope.frameworks.inside.trace import failure
from tpscope.language.answer import Failure, to_json
from tpscope.language.layout import Lora
from tpscope.language.proof import ProofAnswer, ProofRequest, Scenario
from tpscope.language.verdict import Status, Verdict

_DRIVERS = {"nemo": "NemoDriver", "transformers": "TransformersDriver", "axolotl": "AxolotlDriver"}
_VERDICTS = {
    Status.REFUSED: Verdict.REFUSED, Status.UNSUPPORTED: Verdict.UNSUPPORTED, Status.CRASHED: Verdict.CRASHED,
}  # fmt: skip


def preload(family: str) -> None:
    """Import what every proof of a framework uses, once, in the server that forks the ranks. What cannot be imported is
    met again by the case, and answered there."""
    try:
        driver = importlib.import_module(f"tpscope.frameworks.inside.proof.{family}_driver")
        if hasattr(driver, "preload"):
            driver.preload()
    except Exception:  # noqa: BLE001 - the case meets it again and answers with it; the rank's log says it here too
        traceback.print_exc()


def run(family: str, request_file: str, answer_file: str, rank: int, problem: str | None) -> None:
    """Answer one request as one of its ranks. What the framework raises is the answer."""
    started = time.perf_counter()
    request = read(json.loads(Path(request_file).read_text(encoding="utf-8")))
    answer = ProofAnswer(request.framework, request.model, request.scenario.name, request.tp)
    answer.environment["packages"] = packages(request.roots)
    if problem:
        answer.verdict = Verdict.UNSUPPORTED if "ModuleNotFoundError" in problem else Verdict.CRASHED
        answer.error = Failure("ImportError", problem.strip().splitlines()[-1], "import", None, problem[-6000:])
    else:
        work = _work(request, rank)
        with listening(answer.log), contextlib.redirect_stdout(io.StringIO()):
            _answer(family, work, answer, lambda: _write(answer, Path(f"{answer_file}.early")))
        answer.shims, answer.exercised = work.shims, list(dict.fromkeys(answer.exercised + work.exercised))
    answer.seconds = round(time.perf_counter() - started, 3)
    _write(answer, Path(answer_file))


def _write(answer: ProofAnswer, file: Path) -> None:
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(_finite(to_json(answer))), encoding="utf-8")
    partial.rename(file)


def read(raw: dict[str, Any]) -> ProofRequest:
    """A request from its JSON."""
    scenario = raw["scenario"]
    if scenario.get("lora"):
        scenario["lora"] = Lora(**{**scenario["lora"], "targets": tuple(scenario["lora"]["targets"])})
    raw["scenario"] = Scenario(**scenario)
    return ProofRequest(**raw)


def _work(request: ProofRequest, rank: int) -> Work:
    world, shared = request.layout.world, Path(request.folder)
    scratch = shared / f"rank-{rank}"
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT="29500", HF_HUB_OFFLINE="1", HF_MODULES_CACHE=str(scratch / "modules"),
    )  # fmt: skip
    os.chdir(scratch)
    request.config = settled(request.config, request.scenario.dropout)
    return Work(request, rank, Path(request.training.get("checkpoints") or shared) / "checkpoint", scratch)


def _answer(family: str, work: Work, answer: ProofAnswer, keep: Callable[[], None]) -> None:
    request = work.request
    faulthandler.enable()
    store = dist.FileStore(str(Path(request.folder) / "store"), request.layout.world)
    limit = datetime.timedelta(seconds=request.seconds)
    dist.init_process_group("gloo", store=store, rank=work.rank, world_size=request.layout.world, timeout=limit)
    module = importlib.import_module(f"tpscope.frameworks.inside.proof.{family}_driver")
    driver: Driver = getattr(module, _DRIVERS[family])(work)
    try:
        prove(driver, answer, keep)
    except Refused as refusal:
        answer.verdict, answer.error = _VERDICTS[refusal.status], refusal.error
    except BaseException as error:  # noqa: BLE001 - a framework's crash is an answer, never a crash of ours
        found, deliberate = failure(error, work.phase, request.roots)
        answer.error = found
        answer.verdict = _VERDICTS[status_of(error, found, deliberate)]
        if _NARROWER.search(found.message):
            found.message = f"this code does not run in float64, in which proofs run: {found.message}"
            answer.verdict = Verdict.UNSUPPORTED
        if answer.verdict == Verdict.CRASHED:
            answer.rank_errors[str(work.rank)] = "".join(traceback.format_exception(error))[-6000:]
    if answer.error is not None:
        answer.sentence = answer.error.message


# What torch says where code mixes in a narrower dtype than the float64 that we gave all weights.
_NARROWER = re.compile(r"\b(Double|float64|c10::Float != double)\b")


def _finite(value: Any) -> Any:
    """JSON has no infinity: what is not a number is null."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
