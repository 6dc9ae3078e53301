"""Saving, evaluating, resuming, time limits, the seed."""

from __future__ import annotations

from typing import Any

from tpscope.migrate.how import simple
from tpscope.migrate.how.schedule import steps_of_epoch
from tpscope.migrate.job import Job
from tpscope.migrate.result import Verdict

_EVERY, _EPOCH = "step_scheduler.ckpt_every_steps", "step_scheduler.save_checkpoint_every_epoch"
_VALIDATE = "step_scheduler.val_every_steps"
_SAVING = "step_scheduler.validate_on_checkpoint"
_NEVER = 1_000_000


def saving_to_nemo(job: Job) -> None:
    """When checkpoints are written. Both save after the last step."""
    steps, per, strategy = (job.get(key) for key in ("save_steps", "saves_per_epoch", "save_strategy"))
    keys = [key for key in ("save_strategy", "saves_per_epoch", "save_steps") if job.get(key) is not None]
    whole = "at the end of every epoch"
    if isinstance(steps, int) and steps > 0:
        job.put(_EVERY, job.source.object("save_steps"), Verdict.RENAMED, "save_steps")
        job.put(_EPOCH, False, Verdict.DERIVED, reason="by steps alone, as transformers' Trainer")
        job.lose("save_strategy", "by steps", Verdict.DERIVED)
    elif strategy in ("no", False):
        why = "only the last step is saved, as Axolotl does"
        job.put(_EVERY, _NEVER, Verdict.DERIVED, "save_strategy", why)
        job.put(_EPOCH, False, Verdict.DERIVED, reason=why)
    elif steps is not None or (per or 1) != 1:
        count = steps_of_epoch(job)
        if count and per:
            each = max(1, round(count / per))
            job.put(_EVERY, each, Verdict.DERIVED, keys, f"{count:g} steps an epoch / {per}")
        else:
            why = "a share of an epoch, which only the length of the data turns into steps: add --samples N"
            job.put(_EVERY, None, Verdict.NEEDS_YOU, keys, f"{why}; {whole} is written")
    elif strategy == "best":
        why = "NeMo saves regularly and points at the best by validation loss"
        job.put(_EVERY, None, Verdict.APPROXIMATED, keys, why)
    else:
        job.put(_EVERY, None, Verdict.DERIVED, keys, whole + ("" if keys else ", Axolotl's default"))
    for leaf in job.leaves:
        job.lose(leaf.path)


def saving_to_axolotl(job: Job) -> None:
    """`ckpt_every_steps` and what goes with it."""
    section = job.source.plain.get("step_scheduler") or {}
    stated = "ckpt_every_steps" in section
    every = job.get(_EVERY) if stated else 100
    epoch = job.get(_EPOCH)
    of = _EVERY if job.leaf(_EVERY) else ""
    off = job.get("checkpoint.enabled") is False
    if off or (isinstance(every, int) and every >= _NEVER and epoch is False):
        why = "Axolotl still saves the model after the last step" if off else "only the last step is saved"
        source = "checkpoint.enabled" if off else of
        job.put("save_strategy", "no", Verdict.APPROXIMATED if off else Verdict.DERIVED, source, why)
        job.lose(_EVERY, "nothing is saved", Verdict.DERIVED)
    elif every is None:
        job.put("saves_per_epoch", 1, Verdict.DERIVED, of, "at the end of every epoch")
    elif epoch is False:
        job.put("save_steps", every, Verdict.RENAMED if of else Verdict.DERIVED, of, "" if of else "NeMo's default")
    else:
        why = "NeMo also saves at the end of every epoch" + ("" if of else "; 100 is its default")
        job.put("save_steps", every, Verdict.APPROXIMATED, of, why)
    job.say(_EPOCH, Verdict.DERIVED if epoch is False or every is None else Verdict.DROPPED, "said by save_steps")
    job.say("checkpoint.enabled", Verdict.EXACT, "Axolotl saves unless told otherwise")


def _validates(job: Job) -> bool:
    return any(str(key).startswith("validation_dataset") and value not in (None, "none", "None")
               for key, value in job.source.plain.items())  # fmt: skip


def evaluating_to_nemo(job: Job) -> None:
    """When validation runs."""
    asked = bool(job.get("val_set_size")) or job.get("test_datasets") is not None
    data = "validation_dataset._target_" in job.draft.written
    strategy = next(
        (job.get(key) for key in ("eval_strategy", "evaluation_strategy") if job.get(key) is not None), None
    )
    steps, per = job.get("eval_steps"), job.get("evals_per_epoch")
    keys = [leaf.path for leaf in job.leaves if job.get(leaf.path) is not None]
    if asked and not data:
        for key in keys:
            job.lose(key, "it goes with validation_dataset, which waits for you", Verdict.NEEDS_YOU)
    elif not data or strategy in ("no", False):
        for key in keys:
            job.say(key, Verdict.EXACT, "there is nothing to validate on" if not data else "no validation")
    elif isinstance(steps, int) and steps > 0:
        job.put(_VALIDATE, job.source.object("eval_steps"), Verdict.RENAMED, "eval_steps")
        job.put(_SAVING, False, Verdict.DERIVED, reason="by its own count alone, as in Axolotl")
    elif per is not None or strategy == "epoch":
        count = steps_of_epoch(job)
        if count:
            each = max(1, round(count / (per or 1)))
            job.put(_VALIDATE, each, Verdict.DERIVED, keys, f"{count:g} steps an epoch / {per or 1}")
            job.put(_SAVING, False, Verdict.DERIVED, reason="by its own count alone, as in Axolotl")
        elif (per or 1) == 1 and job.draft.written.get(_EVERY) and job.draft.written[_EVERY].value is None:
            why = "NeMo validates when it saves, which is at the end of every epoch here"
            job.put(_SAVING, True, Verdict.DERIVED, keys, why)
        else:
            why = "a share of an epoch, which only the length of the data turns into steps: add --samples N"
            job.put(_SAVING, True, Verdict.NEEDS_YOU, keys, f"{why}; until then NeMo validates when it saves")
    if data and not keys:
        why = "Axolotl does not validate unless told when; NeMo does whenever it saves"
        job.put(_SAVING, False, Verdict.DERIVED, reason=why)
    for leaf in job.leaves:
        job.lose(leaf.path, "NeMo validates by steps", Verdict.DROPPED)


def evaluating_to_axolotl(job: Job) -> None:
    """`val_every_steps`, and that NeMo validates when it saves."""
    data = _validates(job)
    every = job.get(_VALIDATE)
    of = _VALIDATE if job.leaf(_VALIDATE) else ""
    section = job.source.plain.get("step_scheduler") or {}
    per_epoch = "ckpt_every_steps" in section and section["ckpt_every_steps"] is None
    if not data:
        job.lose(_VALIDATE, "there is nothing to validate on", Verdict.EXACT)
    elif every is not None:
        job.put("eval_steps", job.source.object(_VALIDATE), Verdict.RENAMED, of)
    elif job.get(_SAVING) is not False:
        each = section.get("ckpt_every_steps", 100)
        why = "NeMo validates when it saves" + ("" if per_epoch else ", which is every that many steps")
        key, value = ("evals_per_epoch", 1) if per_epoch else ("eval_steps", each)
        job.put(key, value, Verdict.DERIVED, _SAVING if job.leaf(_SAVING) else "", why)
    job.lose(_VALIDATE)
    plain = job.get(_SAVING) is False or not data
    job.lose(_SAVING, "Axolotl validates by its own count", Verdict.DERIVED if plain else Verdict.APPROXIMATED)


def resume_to_nemo(job: Job) -> None:
    """A checkpoint of another framework cannot be resumed from. NeMo resumes from its own without being told."""
    _resume(job, "resume_from_checkpoint")
    auto = "auto_resume_from_checkpoints"
    if job.get(auto) is True:
        job.put("checkpoint.restore_from", "LATEST", Verdict.DERIVED, auto, "the latest checkpoint in checkpoint_dir")
        return
    why = "NeMo goes on from a checkpoint of this model that it finds in checkpoint_dir; Axolotl only when told"
    if job.leaf(auto):
        job.say(auto, Verdict.APPROXIMATED, why)
    else:
        job.put("", None, Verdict.APPROXIMATED, reason=f"{why}: name a folder that is new")


def resume_to_axolotl(job: Job) -> None:
    """`checkpoint.restore_from`, the latest where nothing is said."""
    path, auto = "checkpoint.restore_from", "auto_resume_from_checkpoints"
    said = job.get(path)
    if said == "LATEST":
        job.put(auto, True, Verdict.DERIVED, path, "the latest checkpoint in output_dir")
    elif said is None and job.get("checkpoint.enabled") is not False:
        of = path if job.leaf(path) else ""
        job.put(auto, True, Verdict.DERIVED, of, "NeMo's default, written out: Axolotl starts anew")
    _resume(job, path)


def _resume(job: Job, path: str) -> None:
    why = "a checkpoint holds optimizer and data state in its own framework's layout: export the weights and start anew"
    job.lose(path, why, Verdict.NEEDS_YOU)


def format_to_axolotl(job: Job) -> None:
    """`checkpoint.model_save_format`: with transformers 5 Axolotl refuses any other than safetensors."""
    path = "checkpoint.model_save_format"
    if job.get(path) == "torch_save":
        job.lose(path, "Axolotl with transformers 5 writes safetensors only: the same weights in another file",
                 Verdict.APPROXIMATED)  # fmt: skip
    else:
        simple.table(job)


def timeout_to_nemo(job: Job) -> None:
    """Seconds to minutes."""
    seconds = job.get("ddp_timeout")
    of = "ddp_timeout" if job.leaf("ddp_timeout") else ""
    minutes: Any = 30 if seconds is None else -(-int(seconds) // 60)
    why = f"{seconds} s" if seconds is not None else "transformers' default of 1800 s, written out: NeMo's is 1 minute"
    job.put("dist_env.timeout_minutes", minutes, Verdict.DERIVED, of, why)


def timeout_to_axolotl(job: Job) -> None:
    """Minutes to seconds."""
    path = "dist_env.timeout_minutes"
    minutes = job.get(path)
    if minutes is None:
        job.lose(path)
        return
    if minutes == 30:
        job.say(path, Verdict.DERIVED, "transformers' default")
        return
    job.put("ddp_timeout", minutes * 60, Verdict.DERIVED, path, f"{minutes} minutes")


def seed_to_axolotl(job: Job) -> None:
    """The seed. Some recipes still have a section that nothing reads."""
    if job.get("seed") is not None:
        job.put("seed", job.source.object("seed"), Verdict.EXACT, "seed")
        job.lose("rng.seed", "seed counts, and nothing of NeMo 0.7.0 reads rng", Verdict.EXACT)
    elif job.get("rng.seed") is not None:
        why = "NeMo 0.7.0 reads seed and not rng, and trains with 42; the number that is meant is moved"
        job.put("seed", job.source.object("rng.seed"), Verdict.APPROXIMATED, "rng.seed", why)
    for leaf in job.leaves:
        job.lose(leaf.path, "nothing of NeMo 0.7.0's text recipe reads rng", Verdict.EXACT)
