"""The learning rate of every optimizer step, by the framework's own schedule and warm-up code.

`options`: `data` is the training YAML, `steps` the number of optimizer steps of the run. Answers `{"rates": [...]}`.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import torch

from tpscope.frameworks.inside.case import Case


def answer(family: str, case: Case, options: dict[str, Any]) -> dict[str, list[float]]:
    """The rates of a file's schedule, before each step."""
    case.phase = "schedule"
    data, steps = options["data"], options["steps"]
    peak = float(data["learning_rate"] if family == "axolotl" else (data.get("optimizer") or {}).get("lr", 1e-4))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    advance = (_axolotl if family == "axolotl" else _nemo)(data, optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        advance()
    return {"rates": rates}


def _nemo(data: dict[str, Any], optimizer: torch.optim.Optimizer, steps: int) -> Any:
    section = data.get("lr_scheduler")
    if not section:
        return lambda: None
    config = importlib.import_module("nemo_automodel.components.optim.optimizer").LRSchedulerConfig
    fields = {key: value for key, value in section.items() if key != "_target_"}
    run = SimpleNamespace(epoch_len=steps, num_epochs=1, max_steps=steps)
    (schedule,) = config(**fields).build(optimizer, run)
    return lambda: schedule.step(1)


def _axolotl(data: dict[str, Any], optimizer: torch.optim.Optimizer, steps: int) -> Any:
    cfg = importlib.import_module("axolotl.utils.dict").DictDefault(data)
    builder = importlib.import_module("axolotl.core.builders.base").TrainerBuilderBase
    arguments: dict[str, Any] = {}
    builder._configure_warmup_and_logging(SimpleNamespace(cfg=cfg), steps, arguments)
    warmup = arguments["warmup_steps"]
    name = cfg.lr_scheduler or "cosine"
    if name == "cosine" and cfg.cosine_min_lr_ratio:
        own = importlib.import_module("axolotl.utils.schedulers")
        schedule = own.get_cosine_schedule_with_min_lr(optimizer, warmup, steps, cfg.cosine_min_lr_ratio)
    else:
        get = importlib.import_module("transformers").get_scheduler
        schedule = get(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    return schedule.step
