"""Question Q1: what does the plan hierarchy cost? From the recorded times, and from what a traced step entered."""

from __future__ import annotations

from collections.abc import Iterable

from tpscope.language.measured.cost import Costs, LevelCost
from tpscope.report.experiments.cost_rows import Cost
from tpscope.report.judges.view import Reply, View
from tpscope.report.text import duration, listed, percent

WHOLE = "the optimizer step"


def hierarchy(view: View) -> Reply:
    """What choosing costs once, as a share of one step of a two-layer model, and what of it every step repeats."""
    nemo, axolotl = (_measured(view, framework) for framework in (view.nemo, view.axolotl))
    if not nemo:
        return Reply("", "")
    again = sorted({name for _, found in nemo for name in found.again.chose_again})
    stopped = sorted({found.again.until for _, found in nemo if found.again.until != WHOLE})
    step = f"{len(again)} functions again in every step" if again else "nothing in a step"
    if stopped and not again:
        step = f"nothing in a step, traced up to {listed(stopped)}"
    whole, above = _largest(found for _, found in nemo), max(_above(found) for _, found in nemo)
    more = f", {percent(above)} above the fastest level" if above else ""
    verdict = f"{step}; once, {percent(whole)} of a two-layer step{more}"
    words = [f"{view.nemo}: {_levels(row.model, found)}" for row, found in nemo]
    if axolotl:
        worst = max((found for _, found in axolotl), key=lambda found: found.levels[0].times.median)
        words.append(
            f"{view.axolotl}: its one level at most {duration(worst.levels[0].times.median)}, "
            f"{percent(_largest(found for _, found in axolotl))} of such a step"
        )
    calls = min(found.again.calls for _, found in nemo)
    words.append(
        f"a traced step entered functions of the framework's packages at least {calls} times and of those that choose "
        + (listed(again) if again else "none")
    )
    return Reply(verdict, "; ".join(words))


def _measured(view: View, framework: str) -> list[tuple[Cost, Costs]]:
    return [(row, row.found) for row in view.study.measured(Cost, framework) if row.found and framework]


def _largest(found: Iterable[Costs]) -> float:
    return max(share(one, one.levels[0]) for one in found)


def _above(found: Costs) -> float:
    """How much more of a step the model's own level takes than the level that takes least, the fastest of each."""
    return share(found, found.levels[0]) - min(share(found, level) for level in found.levels)


def share(found: Costs, level: LevelCost) -> float:
    """A choice as a fraction of one forward and backward of the two-layer model: the fastest of each, since other work
    on the machine falls on a long call more than on a short one."""
    return level.times.least / found.step.least


def fastest(found: Costs) -> LevelCost:
    """The level that is chosen in the least time, by its median."""
    return min(found.levels, key=lambda level: level.times.median)


def _levels(model: str, found: Costs) -> str:
    own, best = found.levels[0], fastest(found)
    if own is best:
        return f"{model} at its level {own.level} {duration(own.times.median)}, no level faster"
    above = duration(own.times.median - best.times.median)
    return f"{model} at its level {own.level} {duration(own.times.median)}, {above} above the fastest, {best.level}"
