"""The output head and its logits: S14, S15."""

from __future__ import annotations

from collections import Counter

from tpscope.report.judges.view import Found, Quoted, View, cites, inputs, models, ran, share, unasked
from tpscope.report.rows import HANDED, SETTING, Column
from tpscope.report.text import counted, listed


def sharded_by_hand(view: View) -> Found:
    """S14: where a plan of NeMo's own table keeps the logits sharded, do they stay so through the default loss?"""
    answered = view.answered(view.nemo)
    if not answered:
        return unasked()
    kept = [pair for pair in answered if (pair[1].head.plan_output or "").startswith("Shard")]
    by_loss = [pair for pair in kept if pair[1].head.gathered_by is not None]
    by_plan = [pair for pair in answered if pair[1].head.gathered_by == "plan"]
    loss = Counter[str]()
    for _, column in by_loss:
        loss.update(column.collectives.get("loss", {}))
    words = f"the plan keeps the logits sharded for {share(kept, answered)}"
    if by_loss:
        names = listed(column.head.loss.rpartition(".")[2] for _, column in by_loss if column.head.loss)
        words += f", and then the default loss ({names}) gathers them for {len(by_loss)}, with {counted(loss)} in all"
    elif kept:
        words += ", and nothing gathers them"
    if by_plan:
        words += f"; the plan itself gathers them for {models(by_plan)}"
    where = next((Quoted(column.id, column.head.where) for _, column in by_loss if column.head.where), None)
    evidence = (*ran(kept, r'"lm_head": \w+\(output_layouts=Shard'), *([where] if where else []))
    return Found(bool(kept) and not by_loss, words, evidence)


def automatic(view: View) -> Found:
    """S15: is there neither an input of the selection nor a setting of Axolotl's that decides about the head?"""
    answered, tried = view.answered(view.axolotl), view.tried(view.axolotl)
    if not answered or not tried or view.study.source(view.axolotl) is None:
        return unasked()
    choosing = [item.name for item in view.cited(view.axolotl, SETTING) if "plan" in item.name]
    custom = [pair for pair in tried if "custom" in inputs(pair[1])]
    fates = Counter(_fate(column) for _, column in answered)
    words = (
        f"settings of {view.axolotl} that choose a plan: {listed(choosing)}; inputs for one's own plan: {len(custom)}; "
        "the head: " + listed(f"{fate} for {count} of {len(answered)}" for fate, count in fates.most_common())
    )
    return Found(not choosing and not custom, words, cites(view.axolotl, view.cited(view.axolotl, HANDED)))


def _fate(column: Column) -> str:
    if column.head.style:
        return f"{column.head.style} of Hugging Face's plan, logits gathered by {column.head.gathered_by or 'nobody'}"
    weight = next((group for group in column.parameters if group.name == "lm_head.weight"), None)
    return "no rule, whole on every rank" if weight and weight.placement == "Replicate()" else "no rule"
