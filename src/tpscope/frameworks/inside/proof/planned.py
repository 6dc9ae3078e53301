"""Weights that a plan cuts and that every rank holds whole all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tpscope.frameworks.inside import normal
from tpscope.frameworks.inside.proof.facing import Facing, everywhere
from tpscope.language.plan import Plan, wildcard
from tpscope.language.proof import Cause, Diagnosis

if TYPE_CHECKING:
    from tpscope.frameworks.inside.proof.proof import Proof

_HEADS = ("k_proj", "v_proj")


def unsharded(proof: Proof, facing: Facing) -> list[Diagnosis]:
    """One diagnosis if matrices that the plan cuts are whole on every rank, else none."""
    raw = proof.driver.planned(facing.model)
    mine = left_whole(normal.plan_of(raw, facing.model, ""), facing, proof.request.config) if raw else []
    names = [name for name in mine if all(name in other for other in everywhere(mine))]
    if not names:
        return []
    patterns = tuple(sorted({wildcard(name) for name in names}))
    listed = ", ".join(patterns)
    words = f"the plan cuts {listed} over tp, and every rank holds all of it: none of its memory or work is saved"
    mend = "make the plan's pattern match the modules as they are named, or apply it before they are replaced"
    lines = proof.driver.rules(facing.model, patterns)
    return [Diagnosis(Cause.NOT_SHARDED, listed, names, "", words, False, lines, mend)]


def left_whole(plan: Plan, facing: Facing, config: dict[str, Any]) -> list[str]:
    """Matrices that this rank holds whole though a rule of the plan cuts them.

    Left out are what cannot be cut evenly, key and value heads that are fewer than ranks or do not divide by them, and
    tied parameters, of which the other name's rule may be the one that counts.
    """
    shared: dict[int, int] = {}
    for tensor in facing.whole.values():
        shared[tensor.data_ptr()] = shared.get(tensor.data_ptr(), 0) + 1
    text = next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), dict)), config)
    heads = text.get("num_key_value_heads")
    odd = isinstance(heads, int) and heads % facing.size != 0
    found = []
    for name, whole in facing.whole.items():
        if whole.dim() < 2 or shared[whole.data_ptr()] > 1 or name not in facing.mine or ".lora_" in name:
            continue
        owner, _, leaf = name.removeprefix("base_model.model.").replace(".base_layer.", ".").rpartition(".")
        rule = plan.rule_for(f"{owner}.{leaf}")
        placement = rule.style.parameters.get(leaf) if rule is not None else None
        if placement is None or placement.dim is None or (odd and owner.endswith(_HEADS)):
            continue
        if whole.shape[placement.dim] % facing.size == 0 and facing.replicated(name):
            found.append(name)
    return found
