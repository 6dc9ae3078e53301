"""Samples per optimizer step."""

from __future__ import annotations

from tpscope.migrate.job import Job
from tpscope.migrate.result import Verdict

_GLOBAL, _LOCAL = "step_scheduler.global_batch_size", "step_scheduler.local_batch_size"


def to_nemo(job: Job) -> None:
    """Axolotl counts micro-batches a rank, NeMo all samples of a step."""
    micro, steps, total = (job.get(key) for key in ("micro_batch_size", "gradient_accumulation_steps", "batch_size"))
    data = job.ranks.needed(job.source.file, _GLOBAL)
    steps = steps or (total // micro if total and micro else 1)
    micro = micro or (total // steps if total else 1)
    local = job.source.object("micro_batch_size") if job.get("micro_batch_size") else micro
    of = "micro_batch_size" if job.get("micro_batch_size") else ""
    job.put(_LOCAL, local, Verdict.RENAMED if of else Verdict.DERIVED, of, "" if of else "Axolotl's default")
    why = f"{micro} a micro-batch x {steps} micro-batches x {data} data ranks = {micro * steps * data}"
    keys = [key for key in ("gradient_accumulation_steps", "batch_size") if job.get(key) is not None]
    job.put(_GLOBAL, micro * steps * data, Verdict.DERIVED, keys, why)
    for leaf in job.leaves:
        job.lose(leaf.path)


def to_axolotl(job: Job) -> None:
    """The other way round; what does not divide is no batch of NeMo's either."""
    whole, local = job.get(_GLOBAL), job.get(_LOCAL)
    whole = 32 if whole is None else whole
    local = 1 if local is None else local
    data = job.ranks.needed(job.source.file, "gradient_accumulation_steps")
    of = _LOCAL if job.leaf(_LOCAL) else ""
    kept = job.source.object(_LOCAL) if of and isinstance(job.source.get(_LOCAL), int) else local
    if job.ranks.cp > 1 and job.get("packed_sequence.packed_sequence_size") and local != 1:
        why = "Axolotl's ring attention wants packs one by one: as many more micro-batches a step"
        job.put("micro_batch_size", 1, Verdict.APPROXIMATED, of, why)
        local = 1
    else:
        why = "" if of else "NeMo's default"
        job.put("micro_batch_size", kept, Verdict.RENAMED if of else Verdict.DERIVED, of, why)
    of = _GLOBAL if job.leaf(_GLOBAL) else ""
    each = local * data
    if isinstance(whole, int) and isinstance(local, int) and each and whole % each == 0:
        why = f"{whole} samples / ({local} a micro-batch x {data} data ranks) = {whole // each}"
        job.put("gradient_accumulation_steps", whole // each, Verdict.DERIVED, of, why)
    else:
        near = max(1, round(whole / each)) if each else 1
        why = (
            f"{whole} samples do not divide by {local} a micro-batch x {data} data ranks, which NeMo refuses too; "
            f"{near} makes {near * each}"
        )
        job.put("gradient_accumulation_steps", near, Verdict.NEEDS_YOU, of, why)
