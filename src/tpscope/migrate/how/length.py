"""How long a sample may be, and packing."""

from __future__ import annotations

from typing import Any

from tpscope.migrate.how.data import CHAT, COLUMNS
from tpscope.migrate.job import Job
from tpscope.migrate.result import Verdict


def to_nemo(job: Job) -> None:
    """The longest sample, and packing."""
    length = job.get("sequence_len")
    of = "sequence_len" if length is not None else ""
    kept: Any = job.source.object("sequence_len") if isinstance(job.source.get("sequence_len"), int) else length or 512
    cut = job.get("excess_length_strategy") == "truncate"
    target = job.draft.written.get("dataset._target_")
    takes = target is not None and target.value in (CHAT, COLUMNS)
    if job.get("sample_packing"):
        _packed(job, kept, of)
    elif takes:
        verdict = Verdict.DERIVED if cut else Verdict.APPROXIMATED
        why = "what is longer is cut in both" if cut else "NeMo cuts what is longer, Axolotl drops such samples"
        job.put("dataset.seq_length", kept, verdict, of, why)
    else:
        job.lose("sequence_len", "it belongs into dataset, which waits for you", Verdict.NEEDS_YOU)
    if takes and (cut or not job.get("sample_packing")):
        if job.get("sample_packing"):
            job.put("dataset.seq_length", kept, Verdict.DERIVED, reason="the length at which samples are cut")
        of = "excess_length_strategy" if job.leaf("excess_length_strategy") else ""
        job.put("dataset.truncation", True, Verdict.DERIVED, of if cut else "", "so that a batch never is longer")
        _like_training(job)
    if job.get("pad_to_sequence_len") and takes and not job.get("sample_packing"):
        job.put("dataset.padding", "max_length", Verdict.DERIVED, "pad_to_sequence_len", "every sample at full length")
    job.lose("pad_to_sequence_len", "packs are filled up in both", Verdict.DERIVED)
    job.lose("excess_length_strategy", "what is longer than a pack is dropped in both", Verdict.DERIVED)
    job.lose("eval_sample_packing", "NeMo packs validation where it packs training", Verdict.APPROXIMATED)
    for leaf in job.leaves:
        job.lose(leaf.path)


def _packed(job: Job, length: Any, of: str) -> None:
    why = "the length of a pack, of which a micro-batch has micro_batch_size"
    job.put("packed_sequence.packed_sequence_size", length, Verdict.DERIVED, of, why)
    why = "whole samples packed, each attending to itself, too long ones dropped in both; which samples meet differs"
    job.put("packed_sequence.packing_strategy", "neat", Verdict.APPROXIMATED, "sample_packing", why)


def _like_training(job: Job) -> None:
    if "validation_dataset._target_" in job.draft.written:
        for key in ("seq_length", "truncation"):
            value = job.draft.written[f"dataset.{key}"].value
            job.put(f"validation_dataset.{key}", value, Verdict.DERIVED, reason="as the training data")


def to_axolotl(job: Job) -> None:
    """Packs, else the length that the dataset cuts at."""
    size = job.get("packed_sequence.packed_sequence_size")
    packed = isinstance(size, int) and size > 0
    path, length = job.first("dataset.seq_length", "dataset.seq_len", "dataset.max_length")
    if packed:
        at = "packed_sequence.packed_sequence_size"
        job.put("sequence_len", job.source.object(at), Verdict.DERIVED, at, "the length of a pack")
        strategy = "packed_sequence.packing_strategy"
        why = "whole samples packed, each attending to itself; which samples meet differs"
        job.put("sample_packing", True, Verdict.APPROXIMATED, strategy if job.leaf(strategy) else "", why)
    elif length is not None:
        cut = job.get("dataset.truncation") not in (None, False, "do_not_truncate")
        why = "what is longer is cut in both" if cut else "Axolotl drops what is longer; NeMo leaves it"
        kept = job.source.object(path) if isinstance(job.source.get(path), int) else length
        job.put("sequence_len", kept, Verdict.DERIVED if cut else Verdict.APPROXIMATED, path, why)
    else:
        why = "NeMo takes samples as long as they are, Axolotl must be told the longest: 2048 is a guess"
        job.put("sequence_len", 2048, Verdict.NEEDS_YOU, reason=why)
    if job.get("dataset.truncation") not in (None, False, "do_not_truncate"):
        job.put("excess_length_strategy", "truncate", Verdict.DERIVED, "dataset.truncation", "what is longer is cut")
    job.lose("dataset.truncation", "nothing is cut", Verdict.DERIVED)
    if packed:
        _samples_of_packs(job, size)
    full = job.get("dataset.padding") == "max_length" or job.get("dataset.pad_to_max_length") is True
    if full and not packed:
        of = next(key for key in ("dataset.padding", "dataset.pad_to_max_length") if job.leaf(key))
        job.put("pad_to_sequence_len", True, Verdict.DERIVED, of, "every sample at full length")
    job.lose("packed_sequence.packing_strategy", "without packing nothing reads it", Verdict.EXACT)
    for leaf in job.leaves:
        job.lose(leaf.path, "said by the training data", Verdict.DERIVED)


def _samples_of_packs(job: Job, size: int) -> None:
    """What NeMo does with samples before it packs them: Axolotl has one length, that of the pack."""
    job.put("pad_to_sequence_len", True, Verdict.DERIVED, reason="NeMo fills packs up")
    for key in ("dataset.padding", "dataset.pad_to_max_length"):
        job.lose(key, "Axolotl packs samples as long as they are", Verdict.APPROXIMATED)
    for key in ("dataset.seq_length", "dataset.seq_len", "dataset.max_length"):
        same = job.get(key) == size
        why = "the length of a pack" if same else f"in Axolotl a sample may be as long as a pack, {size}"
        job.lose(key, why, Verdict.DERIVED if same else Verdict.APPROXIMATED)
