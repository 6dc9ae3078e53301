"""The classes that shard, and the models with a plan of their own: S6 to S10."""

from __future__ import annotations

from tpscope.language.verdict import Status
from tpscope.report.facts import label
from tpscope.report.judges.view import Asked, Found, Quoted, View, cites, models, share, unasked
from tpscope.report.rows import BODY, REGISTERED, STYLE
from tpscope.report.runs import SEQUENCE
from tpscope.report.text import listed

GATHERS, ROTARY, QK_NORM = "SequenceParallelAllGatherActivation", "RotaryEmbedParallel", "Qwen3QKNorm"
FAMILIES = ("Llama", "Qwen", "Gemma3", "Phi3")
_CLAIMED = 3


def three_classes(view: View) -> Found:
    """S6: are there three style classes in NeMo's package and none in Axolotl's?"""
    if view.study.source(view.nemo) is None or view.study.source(view.axolotl) is None:
        return unasked()
    nemo, axolotl = view.cited(view.nemo, STYLE), view.cited(view.axolotl, STYLE)
    named = [item for item in nemo if item.name in (GATHERS, ROTARY, QK_NORM)]
    words = (
        f"{view.nemo} defines {len(nemo)}: {listed(item.name for item in nemo)}; of the three that the study names "
        f"{len(named)}; {view.axolotl} defines {len(axolotl)}"
    )
    return Found(len(nemo) == _CLAIMED and not axolotl, words, cites(view.nemo, nemo))


def gathers(view: View) -> Found:
    """S7: is the class there, does it redistribute, and does a plan with it gather more than the plain one?"""

    def more(pair: Asked) -> bool:
        plain = view.study.plain(pair[0].question.model)
        without = plain.column(view.nemo) if plain else None
        before = without.collectives.get("forward", {}) if without else {}
        return pair[1].collectives.get("forward", {}).get("all_gather", 0) > before.get("all_gather", 0)

    def gathered(pair: Asked) -> str:
        return f"{pair[1].collectives.get('forward', {}).get('all_gather', 0)} for {pair[0].question.model}"

    found, missing, used, evidence = _class(view, GATHERS)
    if missing:
        return missing
    through = [pair for pair in used if pair[1].status == Status.OK]
    words = found + (
        f"; all-gathers in its forward: {listed(gathered(pair) for pair in through)}" if through else _crashes(used)
    )
    return Found(bool(used) and all(more(pair) for pair in through), words, evidence)


def rotary(view: View) -> Found:
    """S8: is the class there, does it give the inputs back as the tuple they were, and does a plan have it?"""
    found, missing, used, evidence = _class(view, ROTARY)
    if missing:
        return missing
    through = [pair for pair in used if pair[1].status == Status.OK]
    words = found + (f"; forward and backward ran for {models(through)}" if through else _crashes(used))
    return Found(bool(used), words, evidence)


def qk_norm(view: View) -> Found:
    """S9: is the class there, does it take inputs that are sharded over the sequence, and does a plan have it?"""
    found, missing, used, evidence = _class(view, QK_NORM)
    if missing:
        instead = listed(
            f"{row.style} for {row.pattern.rpartition('.')[2]}"
            for _, column in view.asked(view.nemo, SEQUENCE)
            for row in column.plan
            if row.pattern.endswith(("q_norm", "k_norm")) and row.matched
        )
        return missing if missing.met is None else Found(False, f"{missing.words}; in its place {instead}")
    sharded = [
        pair for pair in used if any(row.style == QK_NORM and row.output == "Shard(dim=1)" for row in pair[1].plan)
    ]
    return Found(bool(sharded), found + _crashes(used), evidence)


def _class(view: View, name: str) -> tuple[str, Found | None, list[Asked], tuple[Quoted, ...]]:
    """What all three questions share: words, an answer where the class is not there, the plans with it, evidence."""
    if view.study.source(view.nemo) is None or not view.asked(view.nemo, SEQUENCE):
        return "", unasked(), [], ()
    defined, body = view.cited(view.nemo, STYLE, name), view.cited(view.nemo, BODY, name)
    used = [pair for pair in view.asked(view.nemo, SEQUENCE) if any(row.style == name for row in pair[1].plan)]
    evidence = cites(view.nemo, [*defined, *body])
    if not defined or not body:
        return "", Found(False, f"{view.nemo} has no class {name} that does it", evidence), used, evidence
    return f"defined, and in the sequence-parallel plan of {models(used)}", None, used, evidence


def _crashes(used: list[Asked]) -> str:
    failed = [f"{label(run)}: {column.error.message}" for run, column in used if column.error]
    return f"; read, not seen to run, since every such model ended in an error ({failed[0]})" if failed else ""


def explicit(view: View) -> Found:
    """S10: has each of the four families a class in NeMo's table and its plan from there, and Axolotl's none?"""
    registered = view.cited(view.nemo, REGISTERED)
    asked = [pair for pair in view.asked(view.nemo) if pair[0].question.architecture.startswith(FAMILIES)]
    answered = view.answered(view.axolotl)
    if not registered or not asked or not answered:
        return unasked()
    listed_ = [name for name in FAMILIES if any(item.name.rpartition(".")[2].startswith(name) for item in registered)]
    optimized = [pair for pair in asked if pair[1].selection.level == "optimized"]
    theirs = [pair for pair in answered if pair[1].selection.function.startswith("transformers/")]
    words = (
        f"in the table of {view.nemo}: {listed(listed_)}; the plan is the table's for {share(optimized, asked)} of "
        f"these families; {view.axolotl} has its plan in transformers for {share(theirs, answered, 'sharded models')}"
    )
    met = len(listed_) == len(FAMILIES) and len(optimized) == len(asked) and len(theirs) == len(answered)
    first = [next(item for item in registered if item.name.rpartition(".")[2].startswith(name)) for name in listed_]
    return Found(met, words, cites(view.nemo, first))
