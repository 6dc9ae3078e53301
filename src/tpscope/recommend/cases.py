"""Typical users and what they would ask: the selection guidance of the study is `recommend` over these."""

from __future__ import annotations

from dataclasses import dataclass

from tpscope.recommend.ask import Asked
from tpscope.recommend.result import Recommendation
from tpscope.recommend.run import recommend
from tpscope.recommend.trial import Say


@dataclass(frozen=True)
class Typical:
    """One kind of user: what they are after in one sentence, and the question that they would ask."""

    name: str
    after: str
    asked: Asked


@dataclass(frozen=True)
class Row:
    """A typical user with the answer."""

    typical: Typical
    answer: Recommendation


CASES = (
    Typical(
        "prototype", "adapters on a well-known model, on one machine, today",
        Asked("llama-3.1-8b", 2, lora=True),
    ),
    Typical(
        "production with specific optimization", "a large model, activations sharded over the sequence as well",
        Asked("qwen3-32b", 8, sequence_parallel=True),
    ),
    Typical(
        "research with custom patterns", "a framework that takes a plan of one's own",
        Asked("qwen3-8b", 4, own_plan=True),
    ),
    Typical(
        "beginner", "a small model, nothing but the defaults",
        Asked("llama-3.2-1b", 2),
    ),
)  # fmt: skip


def run_all(say: Say = lambda kind, text: None) -> list[Row]:
    """The answers to all typical questions, in order."""
    return [Row(typical, recommend(typical.asked, say)) for typical in CASES]
