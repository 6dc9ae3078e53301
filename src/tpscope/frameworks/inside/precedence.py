"""The order in which a framework asks its sources for a plan, found by experiment.

Each input of the selection is switched through its states, all combinations are run through the framework's own
selection function, and the order is read off the outcomes: a source comes before another if it wins when both are
offered. Nothing here knows what any framework does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tpscope.language.answer import Step

State = dict[str, str]


@dataclass(frozen=True)
class Input:
    """One input of a selection: its states, first the one in which it offers nothing, and words for the others."""

    name: str
    states: tuple[str, ...]
    words: Mapping[str, str]


def sweep(inputs: list[Input], choose: Callable[[State], str]) -> list[tuple[State, str]]:
    """The outcome of every combination of states: the level that was chosen, or `raised: ...`."""
    names = [item.name for item in inputs]
    found = []
    for states in itertools.product(*(item.states for item in inputs)):
        state = dict(zip(names, states, strict=True))
        found.append((state, choose(state)))
    return found


def order(inputs: list[Input], outcomes: list[tuple[State, str]], actual: State, level: str) -> list[Step]:
    """Steps of the selection, first asked first, with what came of each for the model at hand."""
    triggers = _triggers(inputs, outcomes)
    table = {_key(state): outcome for state, outcome in outcomes}
    ranked = sorted(triggers, key=lambda item: -_wins(item, triggers, table, inputs))
    steps, chosen = [], False
    for name, trigger in ranked:
        missing = [_words(inputs, key, value) for key, value in trigger.items() if actual.get(key) != value]
        if missing:
            outcome = "not asked: not so here"
        elif chosen:
            outcome = "not reached"
        elif name == level:
            outcome, chosen = "gave the plan", True
        else:
            outcome = "asked, gave nothing"
        steps.append(Step(name, _condition(inputs, trigger), outcome))
    return steps


def _triggers(inputs: list[Input], outcomes: list[tuple[State, str]]) -> list[tuple[str, State]]:
    """For each level the smallest sets of inputs that make it the one chosen."""
    neutral = {item.name: item.states[0] for item in inputs}
    found: list[tuple[str, State]] = []
    sized = sorted(outcomes, key=lambda item: sum(item[0][name] != neutral[name] for name in neutral))
    for state, outcome in sized:
        if outcome.startswith("raised"):
            continue
        active = {name: value for name, value in state.items() if value != neutral[name]}
        if not any(level == outcome and trigger.items() <= active.items() for level, trigger in found):
            found.append((outcome, active))
    return found


def _wins(
    item: tuple[str, State], triggers: list[tuple[str, State]], table: dict[str, str], inputs: list[Input]
) -> float:
    level, trigger = item
    score = 0.0
    for other, rival in triggers:
        if (other, rival) == item:
            continue
        clash = next((name for name, value in rival.items() if trigger.get(name, value) != value), None)
        if clash is not None:
            states = next(entry.states for entry in inputs if entry.name == clash)
            score += states.index(trigger[clash]) < states.index(rival[clash])
            continue
        merged = {entry.name: entry.states[0] for entry in inputs} | rival | trigger
        score += table.get(_key(merged), "") == level
    return score


def _key(state: State) -> str:
    return ";".join(f"{name}={state[name]}" for name in sorted(state))


def _words(inputs: list[Input], name: str, state: str) -> str:
    return next(item for item in inputs if item.name == name).words[state]


def _condition(inputs: list[Input], trigger: State) -> str:
    if not trigger:
        return "nothing else gave a plan"
    return " and ".join(_words(inputs, name, state) for name, state in trigger.items())
