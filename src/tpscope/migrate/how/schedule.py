"""The learning rate over the steps, and how many steps there are."""

from __future__ import annotations

import math
from typing import Any

from tpscope.migrate.facts import trained_on
from tpscope.migrate.job import Job
from tpscope.migrate.result import Verdict

_STYLE = {"cosine": "cosine", "linear": "linear", "constant": "constant", "constant_with_warmup": "constant",
          "cosine_with_min_lr": "cosine", "inverse_sqrt": "inverse-square-root"}  # fmt: skip
# NeMo's own default: a tenth of all steps, at most this many.
_MOST_WARMUP = 1000
# Axolotl's own default: 3 % of all steps, at most this many.
_AXOLOTL_WARMUP, _AXOLOTL_MOST = 0.03, 100
_HERE = "lr_scheduler"


def steps_of_run(job: Job) -> int | None:
    """Optimizer steps of an Axolotl run, None where only the data could tell."""
    most = job.get("max_steps")
    whole = int(most) if isinstance(most, int) and most > 0 else None
    per_epoch = steps_of_epoch(job)
    if per_epoch is None:
        return whole
    total = math.ceil(per_epoch * float(job.get("num_epochs") or 1))
    return min(total, whole) if whole else total


def steps_of_epoch(job: Job) -> float | None:
    """Optimizer steps of one epoch of an Axolotl run, where `--samples` tells how many samples there are."""
    samples = trained_on("axolotl", job.source.plain, job.samples)
    if samples is None or job.ranks.data is None:
        return None
    micro, steps = job.get("micro_batch_size") or 1, job.get("gradient_accumulation_steps") or 1
    return samples / ((job.get("batch_size") or micro * steps) * job.ranks.data)


def to_nemo(job: Job) -> None:
    """transformers' schedule by name to NeMo's by style and numbers."""
    name = str(job.get("lr_scheduler") or "cosine")
    of = "lr_scheduler" if job.get("lr_scheduler") is not None else ""
    style = _STYLE.get(name)
    if style is None:
        why = f"NeMo has cosine, linear, constant, inverse-square-root and WSD; cosine is written for {name}"
        job.put("lr_scheduler.lr_decay_style", "cosine", Verdict.NEEDS_YOU, of, why)
        style = "cosine"
    else:
        why = "Axolotl's default" if not of else ""
        same = name == style
        why = why or ("" if same else f"{name} is {style} here")
        job.put("lr_scheduler.lr_decay_style", style, Verdict.RENAMED if same and of else Verdict.DERIVED, of, why)
    why = "transformers warms up from 0; NeMo's default is a tenth of the peak"
    job.put("lr_scheduler.init_lr", 0.0, Verdict.DERIVED, reason=why)
    _lowest_to_nemo(job, style)
    if name == "constant":
        why = "transformers' constant has no warm-up"
        keys = [key for key in ("warmup_steps", "warmup_ratio") if job.get(key)]
        job.put("lr_scheduler.lr_warmup_steps", 0, Verdict.DERIVED, keys, why)
    else:
        _warmup_to_nemo(job)
    for leaf in job.leaves:
        job.lose(leaf.path, "NeMo's schedules have no such number", Verdict.NEEDS_YOU)


def _lowest_to_nemo(job: Job, style: str) -> None:
    if style == "constant":
        return
    peak = job.get("learning_rate")
    ratio, kwargs = job.get("cosine_min_lr_ratio"), job.get("lr_scheduler_kwargs")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    lowest, of, why = 0.0, "", "transformers' schedules end at 0; NeMo's default is a hundredth of the peak"
    if ratio and style == "cosine" and isinstance(peak, (int, float)):
        lowest, of, why = _round(ratio * peak), "cosine_min_lr_ratio", f"{ratio} x {peak}"
    for key, value in kwargs.items():
        path = f"lr_scheduler_kwargs.{key}"
        if key in ("min_lr", "min_lr_rate") and isinstance(peak, (int, float)):
            lowest = value if key == "min_lr" else _round(value * peak)
            of, why = path, "the rate at the end"
    job.put("lr_scheduler.min_lr", lowest, Verdict.DERIVED, of, why)
    if job.get("cosine_constant_lr_ratio") and ratio:
        total = steps_of_run(job)
        why = "the lowest rate is reached at that share of the steps"
        if total:
            steps = int(total * job.get("cosine_constant_lr_ratio"))
            job.put("lr_scheduler.lr_decay_steps", steps, Verdict.DERIVED, "cosine_constant_lr_ratio", why)
        else:
            job.lose("cosine_constant_lr_ratio", f"{why}: write lr_decay_steps", Verdict.NEEDS_YOU)
    job.lose("cosine_constant_lr_ratio", "it counts only beside cosine_min_lr_ratio", Verdict.EXACT)


def _warmup_to_nemo(job: Job) -> None:
    target = "lr_scheduler.lr_warmup_steps"
    steps, ratio = job.get("warmup_steps"), job.get("warmup_ratio")
    if isinstance(steps, float) and 0 < steps < 1:
        ratio, steps, of = steps, None, "warmup_steps"
    else:
        of = "warmup_ratio" if ratio is not None else ""
    if steps is not None:
        if steps == 1:
            job.put(target, 2, Verdict.DERIVED, "warmup_steps", "Axolotl makes 1 warm-up step 2")
        else:
            job.put(target, int(steps), Verdict.RENAMED, "warmup_steps")
        return
    total = steps_of_run(job)
    if total is not None:
        count = int(ratio * total) if ratio is not None else min(int(_AXOLOTL_WARMUP * total), _AXOLOTL_MOST)
        rule = (
            f"{ratio} x {total} steps" if ratio is not None else f"Axolotl's default: 3 % of {total} steps, at most 100"
        )
        job.put(target, 2 if count == 1 else count, Verdict.DERIVED, of, rule)
    elif ratio == 0:
        job.put(target, 0, Verdict.DERIVED, of, "no warm-up")
    elif ratio is not None and abs(ratio - 0.1) < 1e-12:
        why = f"left to NeMo's default: a tenth of all steps, at most {_MOST_WARMUP}, so equal up to 10 009 steps"
        job.put("", None, Verdict.APPROXIMATED, of, why)
    else:
        rule = f"{ratio} x all steps" if ratio is not None else "3 % of all steps, at most 100 (Axolotl's default)"
        why = f"lr_warmup_steps is {rule}, which the length of the data decides: add --samples N, or write it"
        job.put("", None, Verdict.NEEDS_YOU, of, why)


def to_axolotl(job: Job) -> None:
    """NeMo's section, or none: then the rate is constant."""
    if not job.source.has(_HERE):
        why = "without lr_scheduler NeMo's rate is constant; Axolotl's default is cosine"
        job.put("lr_scheduler", "constant", Verdict.DERIVED, reason=why)
        return
    path = "lr_scheduler.lr_decay_style"
    style = str(job.get(path) or "cosine")
    of = path if job.leaf(path) else ""
    warmup = job.get("lr_scheduler.lr_warmup_steps")
    _style_to_axolotl(job, style, of, warmup)
    _warmup_to_axolotl(job, warmup, style)
    _rest_to_axolotl(job)


def _style_to_axolotl(job: Job, style: str, of: str, warmup: Any) -> None:
    lowest, default = _lowest(job)
    place = "lr_scheduler.min_lr"
    from_ = place if job.leaf(place) else ""
    if style == "constant":
        name = "constant" if warmup == 0 else "constant_with_warmup"
        job.put("lr_scheduler", name, Verdict.DERIVED, of, f"constant, {'without' if warmup == 0 else 'after'} warm-up")
        job.lose(place, "a constant rate has no end", Verdict.EXACT)
    elif style == "cosine":
        job.put(
            "lr_scheduler", "cosine", Verdict.RENAMED if of else Verdict.DERIVED, of, "" if of else "NeMo's default"
        )
        peak = job.get("optimizer.lr") or 0
        if lowest:
            ratio = _round(lowest / peak) if peak else 0.01
            why = f"{lowest} / {peak}" if not default else "NeMo's default: a hundredth of the peak"
            job.put("cosine_min_lr_ratio", ratio, Verdict.DERIVED, from_, why)
        job.say(place, Verdict.DERIVED, "the cosine ends at 0")
    elif style in ("linear", "inverse-square-root"):
        name = "linear" if style == "linear" else "inverse_sqrt"
        ends = bool(lowest) or (name == "inverse_sqrt" and not warmup)
        why = (
            f"transformers' {name} ends at 0, NeMo's at {lowest}"
            if lowest
            else "transformers' time scale is 10000 then"
        )
        same = "" if of and name == style else f"{style} is {name} there"
        verdict = Verdict.APPROXIMATED if ends else Verdict.RENAMED if not same else Verdict.DERIVED
        job.put("lr_scheduler", name, verdict, of, why if ends else same)
        job.say(place, Verdict.DROPPED if lowest else Verdict.DERIVED, why if lowest else "it ends at 0 by itself")
    else:
        why = f"Axolotl takes {style} from transformers with lr_scheduler_kwargs; cosine is written"
        job.put("lr_scheduler", "cosine", Verdict.NEEDS_YOU, of, why)
        job.lose(place, why, Verdict.NEEDS_YOU)


def _lowest(job: Job) -> tuple[float, bool]:
    said = job.get("lr_scheduler.min_lr")
    return (float(said), False) if isinstance(said, (int, float)) else (0.01 * (job.get("optimizer.lr") or 1.0), True)


def _warmup_to_axolotl(job: Job, warmup: Any, style: str) -> None:
    path, first = "lr_scheduler.lr_warmup_steps", "lr_scheduler.init_lr"
    of = path if job.leaf(path) else ""
    most = job.get("step_scheduler.max_steps")
    if warmup is None and isinstance(most, int):
        why = f"NeMo's default: a tenth of {most} steps, at most {_MOST_WARMUP}"
        job.put("warmup_steps", min(_MOST_WARMUP, most // 10), Verdict.DERIVED, of, why)
    elif warmup is None:
        why = "NeMo's default is a tenth of all steps, at most 1000: equal up to 10 009 steps"
        job.put("warmup_ratio", 0.1, Verdict.APPROXIMATED, of, why)
    elif warmup == 1:
        job.put("warmup_steps", 1, Verdict.APPROXIMATED, of, "Axolotl makes 1 warm-up step 2")
    elif style == "constant" and warmup == 0:
        job.say(path, Verdict.DERIVED, "constant has none")
    else:
        job.put("warmup_steps", warmup, Verdict.RENAMED, of)
    start = job.get(first)
    if warmup == 0:
        job.lose(first, "without warm-up nothing starts there", Verdict.EXACT)
    elif start == 0:
        job.say(first, Verdict.DERIVED, "transformers warms up from 0")
    else:
        said = "a tenth of the peak (NeMo's default)" if start is None else str(start)
        why = f"NeMo warms up from {said}, transformers from 0"
        job.put("", None, Verdict.APPROXIMATED, first if job.leaf(first) else "", why)


def _rest_to_axolotl(job: Job) -> None:
    whole, decay = job.get("step_scheduler.max_steps"), job.get("lr_scheduler.lr_decay_steps")
    why = "the rate reaches its end at the last step in transformers"
    same = decay is not None and decay == whole
    job.lose("lr_scheduler.lr_decay_steps", why, Verdict.DERIVED if same else Verdict.NEEDS_YOU)
    highest = job.get("lr_scheduler.max_lr")
    same = highest is not None and highest == job.get("optimizer.lr")
    job.lose("lr_scheduler.max_lr", "the peak is learning_rate", Verdict.DERIVED if same else Verdict.NEEDS_YOU)
    for leaf in job.leaves:
        constant = leaf.path.endswith("wd_incr_style") and leaf.value == "constant"
        job.lose(
            leaf.path, "transformers keeps weight decay constant", Verdict.DERIVED if constant else Verdict.NEEDS_YOU
        )


def _round(value: float) -> float:
    """Eight digits: the arithmetic of floats is not the user's number."""
    return float(f"{value:.8g}")


def epochs_to_nemo(job: Job) -> None:
    """Epochs and steps. In transformers max_steps counts alone."""
    most, epochs = job.get("max_steps"), job.get("num_epochs")
    bounded = isinstance(most, int) and most > 0
    if bounded:
        job.put("step_scheduler.max_steps", job.source.object("max_steps"), Verdict.RENAMED, "max_steps")
        why = "max_steps counts alone in transformers' Trainer; NeMo would stop at whichever comes first"
        job.put("step_scheduler.num_epochs", None, Verdict.DERIVED, "num_epochs" if epochs is not None else "", why)
        return
    job.lose("max_steps", "no bound", Verdict.EXACT)
    if epochs is None:
        job.put("step_scheduler.num_epochs", 1, Verdict.DERIVED, reason="Axolotl's default, written out: NeMo's is 10")
    elif float(epochs).is_integer():
        kept = job.source.object("num_epochs") if isinstance(job.source.get("num_epochs"), int) else int(epochs)
        job.put("step_scheduler.num_epochs", kept, Verdict.RENAMED, "num_epochs")
    else:
        why = f"NeMo counts whole epochs: write max_steps for {epochs} of them"
        job.put("step_scheduler.num_epochs", math.ceil(epochs), Verdict.NEEDS_YOU, "num_epochs", why)


def epochs_to_axolotl(job: Job) -> None:
    """Epochs and steps. NeMo stops at whichever comes first."""
    steps, epochs = "step_scheduler.max_steps", "step_scheduler.num_epochs"
    most, count = job.get(steps), job.get(epochs)
    stated = "num_epochs" in (job.source.plain.get("step_scheduler") or {})
    if most is not None:
        job.put("max_steps", job.source.object(steps), Verdict.RENAMED, steps)
        if count is not None:
            why = "NeMo stops at whichever comes first, Axolotl at max_steps"
            job.say(epochs, Verdict.APPROXIMATED, why)
        elif not stated:
            why = "NeMo stops after 10 epochs if they are over before max_steps"
            job.put("", None, Verdict.APPROXIMATED, reason=why)
        else:
            job.say(epochs, Verdict.EXACT, "max_steps counts alone")
    elif count is None:
        of = epochs if job.leaf(epochs) else ""
        job.put("num_epochs", 10, Verdict.DERIVED, of, "NeMo's default, written out: Axolotl's is 1")
    else:
        job.put("num_epochs", job.source.object(epochs), Verdict.RENAMED, epochs)
    job.lose(steps)
