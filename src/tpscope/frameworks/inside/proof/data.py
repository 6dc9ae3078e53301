"""Data that tells right from wrong: every micro-batch and every data rank has other tokens and another number of
labels."""

from __future__ import annotations

import torch

from tpscope.frameworks.inside.proof.driver import MicroBatch

BATCH, SEQUENCE = 3, 24
IGNORED = -100
_FIRST_TOKEN = 3


def micro_batch(vocabulary: int, step: int, dp_rank: int, index: int, mask: str = "") -> MicroBatch:
    """One micro-batch `[3, 24]`. Labels are not shifted; the first of each sample is never one (shifting drops it)."""
    place = 1 + index + 5 * dp_rank + 11 * step
    generator = torch.Generator().manual_seed(1000 + place)
    ids = torch.randint(_FIRST_TOKEN, vocabulary, (BATCH, SEQUENCE), generator=generator)
    labels = ids.clone()
    labels[:, 0] = IGNORED
    for sample in range(BATCH):
        # 1 to 17 labels fewer, another number for each sample and each micro-batch.
        fewer = 1 + (3 * place + 5 * sample + place * sample) % 17
        labels[sample, 1 : 1 + fewer] = IGNORED
    found: MicroBatch = {"input_ids": ids, "labels": labels}
    if mask == "padding":
        kept = torch.ones_like(ids)
        for sample in range(BATCH):
            kept[sample, SEQUENCE - 1 - (place + 2 * sample) % 5 :] = 0
        found["attention_mask"] = kept
        found["labels"] = labels.masked_fill(kept == 0, IGNORED)
    elif mask == "packed":
        positions = torch.arange(SEQUENCE).repeat(BATCH, 1)
        for sample in range(BATCH):
            start = 9 + (place + sample) % 5
            positions[sample, start:] -= start
            labels[sample, start] = IGNORED
        found["position_ids"] = positions
    return found


def tokens(batches: list[MicroBatch]) -> int:
    """Number of labels that a loss counts."""
    return int(sum((batch["labels"] != IGNORED).sum() for batch in batches))


def vocabulary_of(config: dict[str, object]) -> int:
    """Number of tokens of a config, of its text part where it has several."""
    for key in ("text_config", "llm_config", "language_config"):
        if isinstance(inner := config.get(key), dict) and "vocab_size" in inner:
            return int(inner["vocab_size"])
    return int(str(config["vocab_size"]))
