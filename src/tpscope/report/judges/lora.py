"""LoRA under tensor parallelism: S16, S17. Whether it computes the same is for the proofs to say."""

from __future__ import annotations

from tpscope.language.verdict import Verdict
from tpscope.report.judges.view import Found, Quoted, View, cites, proofs, share, unasked
from tpscope.report.prove_rows import Cell
from tpscope.report.rows import STYLE, TRANSLATED
from tpscope.report.runs import ADAPTERS
from tpscope.report.text import listed

CLASSES = ("RowwiseParallelLora", "ColwiseParallelLora")
SCENARIO = "lora"


def own_classes(view: View) -> Found:
    """S16: do the plans use NeMo's two classes, and is every proof with LoRA equal?"""
    answered = view.answered(view.nemo, ADAPTERS)
    if not answered:
        return unasked()
    using = [pair for pair in answered if set(CLASSES) <= set(pair[1].lora.styles)]
    words = f"both classes are in the plan of {share(using, answered, 'adapted models')}"
    evidence = (
        *(line for name in CLASSES for line in cites(view.nemo, view.cited(view.nemo, STYLE, name))),
        *cites(view.nemo, view.cited(view.nemo, TRANSLATED)),
    )
    if len(using) < len(answered):
        return Found(False, words, evidence)
    return _proved(view.cells(view.nemo, SCENARIO), words, evidence)


def automatic(view: View) -> Found:
    """S17: are adapters of sharded layers DTensors that the plan speaks of, and is every proof with LoRA equal?"""
    answered = view.answered(view.axolotl, ADAPTERS)
    if not answered:
        return unasked()
    plain = [pair for pair in answered if pair[1].lora.note]
    words = f"adapters are added by {listed(column.lora.applied_by or 'unknown' for _, column in answered)}"
    if plain:
        said = [f"of {run.question.model}, {column.lora.note}" for run, column in plain]
        return Found(
            False, "; ".join([*said, words, *filter(None, [proofs(view.cells(view.axolotl, SCENARIO), "with LoRA")])])
        )
    return _proved(view.cells(view.axolotl, SCENARIO), words, ())


def _proved(cells: list[Cell], words: str, evidence: tuple[Quoted, ...]) -> Found:
    if not cells:
        return unasked("prove", f"{words}; whether it computes the same", evidence)
    equal = all(cell.verdict == Verdict.EQUAL for cell in cells)
    return Found(equal, f"{words}; {proofs(cells, 'with LoRA')}", evidence)
