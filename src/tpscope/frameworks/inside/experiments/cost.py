"""What the choice of a plan costs: how long it takes by each way to a plan, beside how long building the model,
applying the plan and a step take; and whether any of it runs again in a training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside import gradient
from tpscope.frameworks.inside.case import Case
from tpscope.frameworks.inside.experiments.clock import in_turn, timed
from tpscope.frameworks.inside.experiments.subject import Subject, subject
from tpscope.frameworks.inside.experiments.watch import Function, Steps, Watch
from tpscope.language.measured.cost import Again, Costs, LevelCost

_BUILDS = 5


def answer(family: str, case: Case, options: dict[str, Any]) -> Costs:
    """Time the choice, its peers, and trace a step. The small model stands for the step alone."""
    framework = subject(family, case)
    model = framework.model()
    case.phase = "select"
    levels = _levels(framework, model, case)
    case.phase = "apply"
    build = timed(lambda _: framework.model(), most=_BUILDS)
    apply = timed(framework.apply, framework.model, most=_BUILDS)
    case.phase = "step"
    step = timed(_step(framework.whole()), most=20)
    return Costs(levels[0].level, levels, build, apply, step, _again(framework, case), framework.raised)


def _levels(framework: Subject, model: nn.Module, case: Case) -> list[LevelCost]:
    levels = framework.levels(model)
    times = in_turn([(level.during, partial(level.select, model)) for level in levels])
    found = []
    for level, mine in zip(levels, times, strict=True):
        steps = Steps(case.roots)
        with level.during(), steps.on():
            rules = len(level.select(model))
        lines = sum(len(lines) for lines in steps.lines().values())
        found.append(LevelCost(level.level, level.how, rules, mine, lines))
    return found


def _step(model: nn.Module) -> Callable[[Any], None]:
    """One forward and backward of a model with real numbers, no sharding, no optimizer."""
    batch = gradient.inputs(gradient.vocabulary(model))

    def run(_: Any) -> None:
        output = model(input_ids=batch["input_ids"])
        logits = getattr(output, "logits", output)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch["labels"].flatten()).backward()

    return run


def _again(framework: Subject, case: Case) -> Again:
    choosing, applying, stepping = Watch(case.roots), Watch(case.roots), Watch(case.roots)
    model = framework.model(small=True)
    with choosing.on():
        framework.select(model)
    with applying.on():
        framework.apply(model)
    reached = ["nothing"]

    class Watched(gradient.Observation):
        """An observation that watches from the forward on until the optimizer would step."""

        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            reached[0] = "the forward"
            stepping.start()

        def phase(self, name: str) -> None:
            super().phase(name)
            if name == "forward":
                stepping.entered.clear()
            reached[0] = f"the {name}"

        def backward_done(self, model: nn.Module) -> None:
            super().backward_done(model)
            reached[0] = "the training loop after the backward"

        def before_step(self, model: nn.Module) -> None:
            stepping.stop()
            super().before_step(model)
            if reached[0] == "the training loop after the backward" and case.answer.loop_error is None:
                reached[0] = "the optimizer step"

        def failed(self, error: Exception) -> None:
            stepping.stop()
            super().failed(error)

    before = gradient.Observation
    gradient.Observation = Watched  # type: ignore[misc]
    try:
        framework.observe()
    finally:
        stepping.stop()
        gradient.Observation = before  # type: ignore[misc]
    chosen = {one for one in choosing.entered if _within(one, (*framework.parts, *framework.plans))}
    applied = {one for one in applying.entered if _within(one, framework.parts)} - chosen
    entered = set(stepping.entered)
    others = {one for one in entered if _within(one, framework.parts)} - chosen - applied
    return Again(
        _reached(reached[0], case), sum(stepping.entered.values()), len(chosen), len(applied), _names(chosen & entered),
        _names(applied & entered), _names(others),
    )  # fmt: skip


def _within(function: Function, parts: tuple[str, ...]) -> bool:
    return any(part in function[0] for part in parts)


def _names(functions: set[Function]) -> list[str]:
    return sorted(f"{path}:{name}" for path, name in functions)


def _reached(reached: str, case: Case) -> str:
    error = case.answer.loop_error or case.answer.error
    return f"{reached}, where it raised {error.kind}" if error is not None else reached
