"""One name for a parameter that frameworks and transformers versions spell differently.

A declared map, applied to wildcard names; both spellings stay in the answer. Parameters that a version fuses (experts,
gate and up) meet under the fused name.
"""

from __future__ import annotations

import re

from tpscope.language.plan import wildcard

_RENAMES = (
    (re.compile(r"^base_model\.model\."), ""),
    (re.compile(r"\.base_layer\."), "."),
    (re.compile(r"\.lora_(A|B)\.default\."), r".lora_\1."),
    (re.compile(r"\.block_sparse_moe\."), ".mlp."),
    (re.compile(r"\.experts\.\*\.(w1|w3|gate_proj|up_proj)(\.weight)?$"), ".experts.gate_up_proj"),
    (re.compile(r"\.experts\.\*\.(w2|down_proj)(\.weight)?$"), ".experts.down_proj"),
    (re.compile(r"\.experts\.gate_and_up_projs$"), ".experts.gate_up_proj"),
    (re.compile(r"\.experts\.down_projs$"), ".experts.down_proj"),
    (re.compile(r"^model\.language_model\."), "model."),
)


def canonical(name: str) -> str:
    """The name under which a parameter is compared: layers as `*`, spellings joined."""
    joined = wildcard(name)
    for pattern, replacement in _RENAMES:
        joined = pattern.sub(replacement, joined)
    return joined


def spelt(name: str) -> str:
    """The same with the numbers of its layers: which parameter it is, not of which kind."""
    joined = canonical(name)
    for part in name.split("."):
        if part.isdigit():
            joined = joined.replace("*", part, 1)
    return joined
