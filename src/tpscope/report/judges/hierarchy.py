"""Which sources of a plan are asked, in which order, and whose they are: S1 to S5, S18, S20."""

from __future__ import annotations

from collections import Counter

from tpscope.report.judges.view import Asked, Found, Quoted, View, cites, models, ran, share, unasked
from tpscope.report.rows import APPLIED, HANDED, REGISTERED, Column
from tpscope.report.text import listed

LEVELS = ["custom", "hf", "optimized", "base"]
SELECTS, REGISTRY = "_get_parallel_plan", "PARALLELIZE_FUNCTIONS"
# Inputs of the selection by the state in which they offer a plan.
_OFFERS = {"custom": "given", "registry": "present", "hf": "present"}
_RAISED = "raised: "


def four_levels(view: View) -> Found:
    """S1: do the experiments give the four levels, asked in the order of the statement?"""
    tried = view.tried(view.nemo)
    if not tried:
        return unasked()
    orders = Counter(tuple(_order(column)) for _, column in tried)
    order = list(orders.most_common(1)[0][0])
    gave = [pair for pair in tried if set(LEVELS) <= {item["outcome"] for item in pair[1].selection.experiments}]
    met = order == LEVELS and len(orders) == 1 and len(gave) == len(tried)
    when = next((step.tried_when for step in tried[0][1].selection.order if step.level == "hf"), "never")
    words = f"asked in the order {', '.join(order)}; all four can give a plan for {share(gave, tried)}; hf when {when}"
    return Found(met, words, _conditions(tried))


def _order(column: Column) -> list[str]:
    return list(dict.fromkeys(step.level for step in column.selection.order))


def _conditions(tried: list[Asked]) -> tuple[Quoted, ...]:
    """The lines of the selection that ask for each source."""
    patterns = (r"isinstance\(tp_shard_plan, dict\)", r"^elif use_hf_tp_plan", rf"elif .*\b{REGISTRY}\b")
    return tuple(line for pattern in patterns for line in ran(tried, pattern, SELECTS))


def cascade(view: View) -> Found:
    """S2: does every combination of inputs end in a plan, and never in the base plan while a source offers one?"""
    tried = view.tried(view.nemo)
    if not tried:
        return unasked()
    outcomes: dict[tuple[tuple[str, str], ...], set[str]] = {}
    for _, column in tried:
        for item in column.selection.experiments:
            states = tuple((name, state) for name, state in item.items() if name != "outcome")
            outcomes.setdefault(states, set()).add(item["outcome"])
    raises = [states for states, found in outcomes.items() if any(one.startswith(_RAISED) for one in found)]
    skips = [
        states
        for states, found in outcomes.items()
        if "base" in found and any(_OFFERS.get(name) == state for name, state in states)
    ]
    words = (
        f"combinations that raise instead of going on: {len(raises)} of {len(outcomes)}{_such(raises)}; that take "
        f"the base plan past a source that offers one: {len(skips)}{_such(skips)}"
    )
    return Found(not raises and not skips, words, _conditions(tried))


def _such(found: list[tuple[tuple[str, str], ...]]) -> str:
    return f" ({', '.join(f'{name} {state}' for name, state in found[0])} is one)" if found else ""


def purposes(view: View) -> Found:
    """S3: is a custom plan taken wherever one is given, and the base plan only where nothing else gave one?"""
    tried = view.tried(view.nemo)
    if not tried:
        return unasked()
    given = [item for _, column in tried for item in column.selection.experiments if item.get("custom") == "given"]
    taken = [item for item in given if item["outcome"] == "custom"]
    last = {column.selection.order[-1].tried_when for _, column in tried if column.selection.order[-1].level == "base"}
    levels = Counter(column.selection.level for _, column in tried)
    words = (
        f"a custom plan is taken in {share(taken, given, 'experiments with one')}; base is asked when "
        f"{listed(sorted(last), 'never')}; for the models as they are: "
        + listed(f"{count} {level}" for level, count in levels.most_common())
    )
    if len(taken) < len(given) or last != {"nothing else gave a plan"}:
        return Found(False, words, _conditions(tried))
    return unasked("bench", f"{words}; whether the optimized level is the fast one", _conditions(tried))


def one_level(view: View) -> Found:
    """S4: is Hugging Face's plan the only input and the only level, and does every plan stand in its package?"""
    tried, answered = view.tried(view.axolotl), view.answered(view.axolotl)
    if not tried or not answered:
        return unasked()
    switched = listed(name for _, column in tried for name in column.selection.experiments[0] if name != "outcome")
    gave = {item["outcome"] for _, column in tried for item in column.selection.experiments}
    theirs = [pair for pair in answered if pair[1].selection.function.startswith("transformers/")]
    met = gave <= {"hf", "none"} and "hf" in gave and len(theirs) == len(answered)
    words = (
        f"inputs of the selection: {switched}; outcomes: {listed(sorted(gave))}; the plan stands in transformers for "
        f"{share(theirs, answered, 'sharded models')}"
    )
    return Found(met, words, cites(view.axolotl, view.cited(view.axolotl, HANDED)))


def from_attribute(view: View) -> Found:
    """S18: is there a plan where `_tp_plan` is present, and none where it is taken away?"""
    tried = view.tried(view.axolotl)
    handed = view.cited(view.axolotl, HANDED)
    if not tried:
        return unasked()
    told = [
        pair
        for pair in tried
        if {item.get("hf"): item["outcome"] for item in pair[1].selection.experiments}
        == {"absent": "none", "present": "hf"}
    ]
    words = (
        f"with `_tp_plan` the level is hf and without it there is no plan for {share(told, tried, 'models tried')}; "
        f"what is handed over: {listed((item.value for item in handed), 'no line known')}"
    )
    return Found(len(told) == len(tried) and bool(handed), words, cites(view.axolotl, handed))


def machinery(view: View) -> Found:
    """S5: did the named function select, by the named table, and is the named function called with its plan?"""
    asked = [pair for pair in view.asked(view.nemo) if pair[1].selection.trail]
    if not asked:
        return unasked()
    selected, mapped = ran(asked, "", SELECTS), ran(asked, REGISTRY, SELECTS)
    registered, applied = view.cited(view.nemo, REGISTERED), view.cited(view.nemo, APPLIED)
    selecting = [pair for pair in asked if ran([pair], "", SELECTS)]
    words = (
        f"lines of `{SELECTS}` ran for {share(selecting, asked)}; `{REGISTRY}` maps {len(registered)} classes and "
        f"{'is' if mapped else 'is not'} asked; its plan goes "
        + ("into `parallelize_module`" if applied else "nowhere that a cited line shows")
    )
    met = bool(mapped and registered and applied) and len(selecting) == len(asked)
    evidence = (*selected[:1], *mapped, *cites(view.nemo, applied), *cites(view.nemo, registered[:1]))
    return Found(met, words, evidence)


def visible(view: View) -> Found:
    """S20: does every plan of NeMo stand in its own package, and every plan of Axolotl in Hugging Face's?"""
    nemo = [pair for pair in view.asked(view.nemo) if pair[1].selection.level]
    axolotl = [pair for pair in view.asked(view.axolotl) if pair[1].selection.level]
    if not nemo or not axolotl:
        return unasked()
    mine = [pair for pair in nemo if pair[1].selection.level in ("optimized", "base")]
    theirs = [pair for pair in axolotl if pair[1].selection.function.startswith("transformers/")]
    other = [pair for pair in nemo if pair not in mine]
    words = f"{view.nemo}: {share(mine, nemo)} by a plan of its own code"
    words += f", {models(other)} by Hugging Face's" if other else ""
    words += f"; {view.axolotl}: {share(theirs, axolotl)} by a plan in transformers"
    evidence = (*ran(other, r"_tp_plan\b|get_hf_tp"), *cites(view.nemo, view.cited(view.nemo, REGISTERED)[:1]))
    return Found(len(mine) == len(nemo) and len(theirs) == len(axolotl), words, evidence)
