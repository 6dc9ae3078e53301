"""How much code and how many inputs there are: S19, S21, S22, S23. Lines are counted where they ran."""

from __future__ import annotations

from dataclasses import dataclass

from tpscope.report.judges.performance import faster
from tpscope.report.judges.view import Asked, Found, Quoted, View, cites, inputs, outside_torch, own, raised, unasked
from tpscope.report.rows import SETTING, Column
from tpscope.report.runs import EXAMPLE
from tpscope.report.text import listed

# Lengths in lines that the study of January 2026 gave (S23): framework, end of the path, lines.
LENGTHS = (
    ("nemo", "distributed/optimized_tp_plans.py", 316),
    ("nemo", "distributed/parallelizer.py", 1530),
    ("nemo", "distributed/parallel_styles.py", 113),
    ("axolotl", "axolotl/utils/distributed.py", 371),
)


@dataclass(frozen=True)
class Counted:
    """What can be counted of one framework: inputs of its selection, lines of its own that ran, its settings, and the
    places where a plan of the user's was put and taken without code."""

    framework: str
    inputs: list[str]
    lines: int
    others: int
    settings: list[str]
    places: list[str]

    def __str__(self) -> str:
        return (
            f"{self.framework}: inputs {', '.join(self.inputs)}; {self.lines} lines of its own ran and {self.others} "
            f"of Hugging Face's; {len(self.settings)} settings, for the plan {listed(self.choosing)}"
        )

    @property
    def choosing(self) -> list[str]:
        """Settings that choose a plan."""
        return [name for name in self.settings if "plan" in name]


def _counted(view: View, framework: str) -> Counted | None:
    tried = view.tried(framework)
    column = next((column for run, column in tried if run.question.model == EXAMPLE), None)
    if column is None or view.study.source(framework) is None:
        return None
    mine = sum(count for path, count in column.ran.items() if path.startswith(own(framework)))
    settings = [item.name for item in view.cited(framework, SETTING)]
    return Counted(framework, inputs(column), mine, sum(column.ran.values()) - mine, settings, view.own_plan(framework))


def _both(view: View) -> tuple[Counted, Counted] | None:
    nemo, axolotl = _counted(view, view.nemo), _counted(view, view.axolotl)
    return (nemo, axolotl) if nemo and axolotl else None


def customizable(view: View) -> Found:
    """S19: does NeMo take a custom plan, with more inputs and more own lines, and Axolotl none without code?"""
    both = _both(view)
    if both is None:
        return unasked()
    nemo, axolotl = both
    met = (
        "custom" in nemo.inputs
        and "custom" not in axolotl.inputs
        and not axolotl.places
        and len(nemo.inputs) > len(axolotl.inputs)
        and nemo.lines > axolotl.lines
    )
    words = f"{view.axolotl} takes a plan of the user's without code from: {listed(axolotl.places)}; {nemo}. {axolotl}"
    return Found(met, words, _choosers(view))


def _choosers(view: View) -> tuple[Quoted, ...]:
    return cites(view.nemo, [item for item in view.cited(view.nemo, SETTING) if "plan" in item.name])


def control(view: View) -> Found:
    """S21: has NeMo more inputs and more lines of its own, and is it the faster one?"""
    both = _both(view)
    if both is None:
        return unasked()
    nemo, axolotl = both
    words = f"{nemo}. {axolotl}"
    if len(nemo.inputs) <= len(axolotl.inputs) or nemo.lines <= axolotl.lines:
        return Found(False, words, _choosers(view))
    speed = faster(view)
    return Found(speed.met, f"{words}. Better optimized: {speed.words}", _choosers(view))


def simpler(view: View) -> Found:
    """S22: has Axolotl fewer lines and inputs, and do as many models get to an optimizer step with it?"""
    both = _both(view)
    if both is None:
        return unasked()
    nemo, axolotl = both
    words = f"{axolotl}. {nemo}"
    if axolotl.lines >= nemo.lines or len(axolotl.inputs) >= len(nemo.inputs):
        return Found(False, words)
    ease = steps(view)
    return Found(ease.met, f"{ease.words}. {words}", ease.evidence)


def steps(view: View) -> Found:
    """Do at least as many models get to their first optimizer step with Axolotl as with NeMo, at TP=2 alone?"""
    nemo, axolotl = view.asked(view.nemo), view.asked(view.axolotl)
    if not nemo or not axolotl:
        return unasked()
    good, theirs = ([pair for pair in pairs if stepped(pair[1])] for pairs in (nemo, axolotl))
    words = (
        f"{len(theirs)} of {len(axolotl)} models get to an optimizer step with {view.axolotl}, {len(good)} of "
        f"{len(nemo)} with {view.nemo}"
    )
    if len(theirs) >= len(good):
        return Found(True, words)
    doubtful = [pair for pair in axolotl if not stepped(pair[1]) and _doubtful(pair)]
    if doubtful:
        words += f"; {len(doubtful)} with {view.axolotl} stopped while torch was outside the range that it declares"
    if len(theirs) + len(doubtful) >= len(good):
        return unasked("prove", f"{words}; inside it", raised(axolotl, loops=True))
    return Found(False, words, raised(axolotl, loops=True))


def stepped(column: Column) -> bool:
    """True if the model was sharded and its training loop was seen to get to the optimizer step."""
    return column.status.value == "ok" and column.loop_error is None and not column.unobserved


def _doubtful(pair: Asked) -> bool:
    return pair[1].status.value not in ("refused", "unsupported") and outside_torch(pair[1])


def lengths(view: View) -> Found:
    """S23: is each file as long as the study says, in lines, or one shorter (an empty line after the last counted)?"""
    words, right, known = [], 0, 0
    for family, ending, said in LENGTHS:
        framework = {"nemo": view.nemo, "axolotl": view.axolotl}[family]
        source = view.study.source(framework)
        file = next((file for file in source.files if file.path.endswith(ending)), None) if source else None
        if file is None:
            words.append(f"{ending} is not in the rows")
            continue
        known += 1
        right += file.lines in (said, said - 1)
        words.append(f"{ending.rpartition('/')[2]} {file.lines} (study: {said})")
    if known < len(LENGTHS):
        return unasked("compare", listed(words))
    return Found(right == len(LENGTHS), f"{right} of {len(LENGTHS)} as said: {listed(words)}")
