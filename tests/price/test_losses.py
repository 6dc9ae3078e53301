"""Losses that are not the default: what they gather, keep and refuse."""

import pytest
from ask import column

pytestmark = pytest.mark.frameworks


def logits(found):
    """Bytes of logits at the peak of the loss."""
    return next(peak.by_category.get("logits and loss", 0) for peak in found.memory.phases if peak.phase == "loss")


def test_a_parallel_loss_gathers_three_numbers_a_token_and_no_logits(pool):
    default, parallel = (
        column(pool, "qwen3-0.6b", "nemo@0.7.0", tp=2, loss=loss) for loss in ("", "TEParallelCrossEntropy")
    )
    assert (default.head.gathered_by, parallel.head.gathered_by) == ("loss", None)
    small = [item for item in parallel.collectives if item.phase == "loss" and item.kind == "all_gather"]
    # A maximum, a sum and the target's logit of every token, of each of two ranks.
    assert [item.bytes for item in small] == [3 * 4 * 512 * 2]
    assert logits(parallel) < 0.5 * logits(default)
    assert any("Triton kernels go once over each tensor" in words for words in parallel.assumptions)
    assert parallel.loss == "TEParallelCrossEntropy"


def test_a_chunked_loss_never_holds_all_logits_and_is_refused_under_tp_by_nemo(pool):
    default, chunked = (
        column(pool, "qwen3-0.6b", "nemo@0.7.0", 2048, loss=loss) for loss in ("", "ChunkedCrossEntropy")
    )
    # A chunk of 512 of 2048 tokens; the default keeps logits in bf16 and in fp32.
    assert logits(chunked) < 0.5 * logits(default)
    assert any("compiles its chunks by default" in words for words in chunked.assumptions)
    refused = column(pool, "qwen3-0.6b", "nemo@0.7.0", tp=2, loss="ChunkedCrossEntropy")
    assert (refused.status.value, refused.time.ms) == ("refused", 0.0)


@pytest.mark.parametrize(
    ("framework", "loss", "words"),
    [
        ("nemo@0.7.0", "FusedLinearCrossEntropy", "kernels are Triton"),
        ("nemo@0.7.0", "NoSuchLoss", "has no loss NoSuchLoss"),
        ("axolotl@0.19.0", "LigerFusedLinearCrossEntropy", "is not modelled"),
    ],
)
def test_a_loss_that_cannot_be_traced_is_unsupported_with_what_stops_it(pool, framework, loss, words):
    found = column(pool, "qwen3-0.6b", framework, tp=2, loss=loss)
    assert (found.status.value, words in found.error.message) == ("unsupported", True), found.error.message
