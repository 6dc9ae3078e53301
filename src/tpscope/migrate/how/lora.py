"""LoRA and QLoRA: which modules, at which scale, over which base weights."""

from __future__ import annotations

import math
import re

from tpscope.migrate.job import Job
from tpscope.migrate.result import Verdict

PEFT = "nemo_automodel.components._peft.lora.PeftConfig"
_BNB = ("bnb_4bit_compute_dtype", "bnb_4bit_use_double_quant", "bnb_4bit_quant_type", "bnb_4bit_quant_storage")
# What each framework hands to bitsandbytes where nothing is said.
_BNB_DEFAULT = {"bnb_4bit_use_double_quant": True, "bnb_4bit_quant_type": "nf4"}


def adapter_to_nemo(job: Job) -> None:
    """`adapter`, and how the base weights are quantized."""
    name = job.get("adapter")
    if name in ("lora", "qlora"):
        job.put("peft._target_", PEFT, Verdict.DERIVED, "adapter", "NeMo's own LoRA")
        why = "PEFT's initialisation of A (Kaiming uniform); NeMo's default is Xavier"
        job.put("peft.lora_A_init", "uniform", Verdict.DERIVED, reason=why)
    elif name is not None:
        job.lose("adapter", f"NeMo AutoModel has LoRA and QLoRA, and no {name}", Verdict.NEEDS_YOU)
    for key in ("load_in_4bit", "load_in_8bit"):
        if job.get(key):
            job.put(f"quantization.{key}", True, Verdict.RENAMED, key)
    if name == "qlora" and not job.get("load_in_4bit") and not job.get("load_in_8bit"):
        why = "qlora over a model that is quantized as published: NeMo quantizes where the section says so"
        job.say("adapter", Verdict.NEEDS_YOU, why)
    for key in _BNB:
        path = f"bnb_config_kwargs.{key}"
        if job.get(path) is not None:
            job.put(f"quantization.{key}", job.source.object(path), Verdict.RENAMED, path)
    for leaf in job.leaves:
        job.lose(leaf.path)


def adapter_to_axolotl(job: Job) -> None:
    """The sections `peft` and `quantization`."""
    four, eight = (bool(job.get(f"quantization.load_in_{bits}bit")) for bits in (4, 8))
    target = str(job.get("peft._target_") or PEFT)
    has = job.source.has("peft")
    if has and target.endswith("PeftConfig"):
        job.put("adapter", "qlora" if four else "lora", Verdict.DERIVED, "peft._target_", "PEFT's LoRA")
    elif has:
        job.say("peft._target_", Verdict.NEEDS_YOU, f"Axolotl has nothing like {target}")
    for key, stated in (("load_in_4bit", four), ("load_in_8bit", eight)):
        if stated:
            job.put(key, True, Verdict.RENAMED, f"quantization.{key}")
    for key in _BNB:
        path = f"quantization.{key}"
        if job.get(path) is not None:
            job.put(f"bnb_config_kwargs.{key}", job.source.object(path), Verdict.RENAMED, path)
    _initial(job, has)
    for leaf in job.leaves:
        job.lose(leaf.path)


def _initial(job: Job, has: bool) -> None:
    path = "peft.lora_A_init"
    said = str(job.get(path) or "xavier")
    if has and said == "xavier":
        why = "NeMo draws A by Xavier, PEFT by Kaiming uniform: other starting values, the same function (B is zero)"
        if job.leaf(path):
            job.say(path, Verdict.APPROXIMATED, why)
        else:
            job.put("", None, Verdict.APPROXIMATED, reason=why)
    elif has:
        job.say(path, Verdict.DERIVED, "PEFT's own initialisation")


def targets_to_nemo(job: Job) -> None:
    """Which modules get an adapter."""
    if not job.source.has("adapter"):
        for leaf in job.leaves:
            job.lose(leaf.path, "without adapter nothing reads it", Verdict.EXACT)
        return
    names = job.get("lora_target_modules")
    if job.get("lora_target_linear"):
        why = "every Linear layer but the output layer, as Axolotl collects them"
        job.put("peft.exclude_modules", ["*lm_head"], Verdict.DERIVED, "lora_target_linear", why)
        if names:
            job.lose("lora_target_modules", "lora_target_linear covers them, unless they are no Linear layers",
                     Verdict.APPROXIMATED)  # fmt: skip
    elif isinstance(names, list):
        job.put("peft.target_modules", job.source.object("lora_target_modules"), Verdict.RENAMED, "lora_target_modules")
    elif names in ("all-linear", "linear"):
        why = "every Linear layer but the output layer"
        job.put("peft.exclude_modules", ["*lm_head"], Verdict.DERIVED, "lora_target_modules", why)
    elif isinstance(names, str) and (globs := globs_of(names)):
        why = "a regular expression on the whole name, as the patterns that it is"
        job.put("peft.target_modules", globs, Verdict.DERIVED, "lora_target_modules", why)
    elif isinstance(names, str):
        why = "PEFT takes it as a regular expression on the whole name, NeMo has only * in names: list the modules"
        job.put("peft.target_modules", [names.rpartition(".")[2]], Verdict.NEEDS_YOU, "lora_target_modules", why)
    else:
        why = "PEFT chooses by the model where no module is named; *_proj is NeMo's choice"
        job.put("peft.target_modules", ["*_proj"], Verdict.NEEDS_YOU, reason=why)
    for leaf in job.leaves:
        job.lose(leaf.path)


def targets_to_axolotl(job: Job) -> None:
    """Names with wildcards to what PEFT matches."""
    if not job.source.has("peft"):
        return
    excluded, names = job.get("peft.exclude_modules"), job.get("peft.target_modules")
    excluded = [excluded] if isinstance(excluded, str) else excluded
    names = [names] if isinstance(names, str) else names
    if excluded:
        usual = set(excluded) <= {"*lm_head", "*.lm_head", "lm_head"}
        why = (
            "every Linear layer but the output layer" if usual else "Axolotl cannot leave modules out: list the others"
        )
        job.put(
            "lora_target_linear", True, Verdict.DERIVED if usual else Verdict.NEEDS_YOU, "peft.exclude_modules", why
        )
    elif job.get("peft.match_all_linear"):
        why = "NeMo adapts the output layer too, Axolotl leaves it out"
        job.put("lora_target_linear", True, Verdict.APPROXIMATED, "peft.match_all_linear", why)
    elif names:
        _names_to_axolotl(job, [str(name) for name in names])
    else:
        why = "NeMo's own default, *_proj"
        job.put("lora_target_modules", regex_of(["*_proj"]), Verdict.DERIVED, reason=why)
    for leaf in job.leaves:
        job.lose(leaf.path)


def _names_to_axolotl(job: Job, names: list[str]) -> None:
    path, target = "peft.target_modules", "lora_target_modules"
    if all("*" not in name for name in names):
        kept = job.source.object(path)
        job.put(target, kept if isinstance(kept, list) else names, Verdict.RENAMED, path)
    elif all(re.fullmatch(r"\*\.\w+", name) for name in names):
        why = "PEFT matches by the last name, as *. does"
        job.put(target, [name.removeprefix("*.") for name in names], Verdict.DERIVED, path, why)
    else:
        why = "one regular expression on the whole name, which is how PEFT takes a string"
        job.put(target, regex_of(names), Verdict.DERIVED, path, why)


def regex_of(names: list[str]) -> str:
    """Names with `*` as the regular expression that PEFT matches on the whole name of a module."""
    parts = []
    for name in names:
        words = ".*".join(re.escape(part).replace(r"\_", "_") for part in name.split("*"))
        parts.append(words if "*" in name else rf"(.*\.)?{words}")
    return parts[0] if len(parts) == 1 else f"({'|'.join(parts)})"


def globs_of(pattern: str) -> list[str]:
    r"""The names with `*` that a regular expression such as `(.*_proj|.*\.wq)` stands for, none for any other."""
    inner = pattern[1:-1] if pattern.startswith("(") and pattern.endswith(")") else pattern
    parts = [part.removeprefix(r"(.*\.)?") for part in inner.split("|")]
    names = [part.replace(".*", "*").replace(r"\.", ".") for part in parts]
    whole = all(re.fullmatch(r"[\w.*]+", name) for name in names)
    return names if whole and any("*" in name for name in names) else []


def dropout_to_nemo(job: Job) -> None:
    """PEFT drops inputs of A; NeMo by default outputs of B."""
    value = job.get("lora_dropout")
    if job.leaf("lora_dropout") is None:
        return
    if value is None or not job.source.has("adapter"):
        job.lose("lora_dropout", "without adapter nothing reads it", Verdict.EXACT)
        return
    job.put("peft.dropout", value, Verdict.RENAMED, "lora_dropout")
    if value:
        job.put(
            "peft.dropout_position", "pre", Verdict.DERIVED, reason="PEFT drops before A; NeMo's default is after B"
        )


def dropout_to_axolotl(job: Job) -> None:
    """The same, and a position that PEFT does not have."""
    value = job.get("peft.dropout")
    position = job.get("peft.dropout_position")
    after = bool(value) and position != "pre"
    if value is not None:
        why = "NeMo drops after B (dropout_position: post), PEFT before A" if after else ""
        job.put("lora_dropout", value, Verdict.APPROXIMATED if after else Verdict.RENAMED, "peft.dropout", why)
    job.say("peft.dropout_position", Verdict.DROPPED if after else Verdict.DERIVED, "PEFT drops before A")


def scale_to_nemo(job: Job) -> None:
    """alpha; with rank-stabilized LoRA the scale is alpha over the root of the rank."""
    if not job.source.has("adapter"):
        for leaf in job.leaves:
            job.lose(leaf.path, "without adapter nothing reads it", Verdict.EXACT)
        return
    alpha, rank = job.get("lora_alpha"), job.get("lora_r")
    if job.get("peft_use_rslora") and alpha is not None and rank:
        scaled = alpha * math.sqrt(rank)
        whole = abs(scaled - round(scaled)) < 1e-9
        why = f"rank-stabilized: {alpha} x sqrt({rank}) = {scaled:g}, since NeMo divides by the rank"
        verdict = Verdict.DERIVED if whole else Verdict.APPROXIMATED
        job.put("peft.alpha", round(scaled), verdict, ["lora_alpha", "peft_use_rslora"], why)
    elif alpha is not None:
        job.put("peft.alpha", job.source.object("lora_alpha"), Verdict.RENAMED, "lora_alpha")
    job.lose("peft_use_rslora")
    job.lose("lora_alpha")


def scale_to_axolotl(job: Job) -> None:
    """alpha, which Axolotl has no default for."""
    if job.get("peft.alpha") is not None:
        job.put("lora_alpha", job.source.object("peft.alpha"), Verdict.RENAMED, "peft.alpha")
    elif job.source.has("peft"):
        job.put("lora_alpha", 32, Verdict.DERIVED, reason="NeMo's default; Axolotl has none")
