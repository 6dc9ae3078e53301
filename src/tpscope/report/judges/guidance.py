"""Which framework for which purpose: S24 to S27, as far as a count can tell; what is taste stays open."""

from __future__ import annotations

from tpscope.language.verdict import Severity
from tpscope.report.facts import findings, harm, merged
from tpscope.report.judges.code import steps
from tpscope.report.judges.performance import faster
from tpscope.report.judges.view import Found, View, cites, inputs, share, unasked
from tpscope.report.rows import HANDED, REGISTERED, SETTING
from tpscope.report.text import listed

SILENT = (Severity.WRONG, Severity.IGNORED)


def production(view: View) -> Found:
    """S24: has NeMo plans for single classes, Axolotl none, as many models clear of findings, and is it faster?"""
    nemo, axolotl = view.asked(view.nemo), view.asked(view.axolotl)
    if not nemo or not axolotl or view.study.source(view.nemo) is None:
        return unasked()
    clear, theirs = ([pair for pair in pairs if not harm(pair[0], pair[1].id)] for pairs in (nemo, axolotl))
    plans, others = (view.cited(key, REGISTERED) for key in (view.nemo, view.axolotl))
    words = (
        f"classes with a plan of their own: {len(plans)} in {view.nemo}, {len(others)} in {view.axolotl}; clear of "
        f"findings: {share(clear, nemo)} and {share(theirs, axolotl)}"
    )
    evidence = cites(view.nemo, plans[:1])
    if len(plans) <= len(others) or len(clear) < len(theirs):
        return Found(False, words, evidence)
    speed = faster(view)
    return Found(speed.met, f"{words}; {speed.words}", evidence)


def prototyping(view: View) -> Found:
    """S25: with nothing set but TP=2, do at least as many models get to an optimizer step with Axolotl?"""
    return steps(view)


def research(view: View) -> Found:
    """S26: is a custom plan taken by NeMo in every combination of inputs, and by Axolotl nowhere without code?"""
    nemo, axolotl = view.tried(view.nemo), view.tried(view.axolotl)
    if not nemo or not axolotl:
        return unasked()
    given = [item for _, column in nemo for item in column.selection.experiments if item.get("custom") == "given"]
    taken = [item for item in given if item["outcome"] == "custom"]
    theirs = listed(name for _, column in axolotl for name in inputs(column))
    places = view.own_plan(view.axolotl)
    words = (
        f"{view.axolotl} takes a plan of the user's without code from: {listed(places)}; inputs of its selection: "
        f"{theirs}; {view.nemo} takes one in {share(taken, given, 'experiments with one')}"
    )
    settings = [item for item in view.cited(view.nemo, SETTING) if "plan" in item.name]
    evidence = (*cites(view.nemo, settings), *cites(view.axolotl, view.cited(view.axolotl, HANDED)))
    alone = "custom" not in theirs and not places
    return Found(bool(given) and len(taken) == len(given) and alone, words, evidence)


def beginners(view: View) -> Found:
    """S27: has Axolotl no more settings and silent findings, and do as many models get to an optimizer step?"""
    ease = steps(view)
    if ease.met is None and not view.asked(view.axolotl):
        return ease
    once = [item for item in merged(findings(view.study)) if item.severity in SILENT]
    nemo, axolotl = (
        (len(view.cited(key, SETTING)), sum(item.framework == key for item in once))
        for key in (view.nemo, view.axolotl)
    )
    words = (
        f"{ease.words}; settings to know: {axolotl[0]} and {nemo[0]}; findings of which nothing is said (wrong, "
        f"ignored): {axolotl[1]} and {nemo[1]}"
    )
    if ease.met is False or axolotl[0] > nemo[0] or axolotl[1] > nemo[1]:
        return Found(False, words, ease.evidence)
    return Found(ease.met, words, ease.evidence)
