"""The optimizer, what it decays, and clipping."""

from __future__ import annotations

from typing import Any

from tpscope.migrate.job import Job
from tpscope.migrate.result import Verdict

_ADAMW = "torch.optim.AdamW"
# The same by NeMo's own configuration, which takes groups of parameters.
TYPED = "nemo_automodel.components.optim.optimizer.AdamWConfig"
# What transformers' Trainer leaves out of weight decay, as a pattern on names.
SPARED = r"bias|layernorm|rmsnorm|(^|[._])norm($|\.)"
_EIGHT = "another library's 8-bit states: other block sizes, so other rounding"
_NEMO: dict[str, tuple[str, dict[str, Any], Verdict, str]] = {
    "adamw_torch": (_ADAMW, {}, Verdict.DERIVED, ""),
    "adamw_hf": (_ADAMW, {}, Verdict.DERIVED, ""),
    "adamw_torch_fused": (_ADAMW, {"fused": True}, Verdict.DERIVED, ""),
    "adamw_torch_8bit": ("torchao.optim.AdamW8bit", {}, Verdict.DERIVED, "torchao's in both"),
    "adamw_torch_4bit": ("torchao.optim.AdamW4bit", {}, Verdict.DERIVED, "torchao's in both"),
    "ao_adamw_8bit": ("torchao.optim.AdamW8bit", {}, Verdict.DERIVED, "torchao's in both"),
    "ao_adamw_4bit": ("torchao.optim.AdamW4bit", {}, Verdict.DERIVED, "torchao's in both"),
    "ao_adamw_fp8": ("torchao.optim.AdamWFp8", {}, Verdict.DERIVED, "torchao's in both"),
    "adamw_bnb_8bit": ("torchao.optim.AdamW8bit", {}, Verdict.APPROXIMATED, _EIGHT),
    "adamw_8bit": ("torchao.optim.AdamW8bit", {}, Verdict.APPROXIMATED, _EIGHT),
    "paged_adamw_8bit": ("torchao.optim.AdamW8bit", {}, Verdict.APPROXIMATED, f"{_EIGHT}, and no paging"),
    "paged_adamw_32bit": (_ADAMW, {}, Verdict.APPROXIMATED, "the same update, without paging to the host"),
    "paged_adamw": (_ADAMW, {}, Verdict.APPROXIMATED, "the same update, without paging to the host"),
    "sgd": ("torch.optim.SGD", {}, Verdict.DERIVED, ""),
    "adagrad": ("torch.optim.Adagrad", {}, Verdict.DERIVED, ""),
    "rmsprop": ("torch.optim.RMSprop", {}, Verdict.DERIVED, ""),
    "flash_adamw": ("nemo_automodel.components.optim.optimizer.FlashAdamWConfig", {}, Verdict.DERIVED, "flashoptim's"),
    "muon": ("nemo_automodel.components.optim.optimizer.MuonConfig", {}, Verdict.APPROXIMATED,
             "Muon of another library: other scaling, and its own rules for what is no matrix"),
    "dion": ("nemo_automodel.components.optim.optimizer.DionConfig", {}, Verdict.APPROXIMATED,
             "Dion with NeMo's own grouping of parameters"),
}  # fmt: skip
_BACK = {
    _ADAMW: "adamw_torch",
    TYPED: "adamw_torch", "torchao.optim.AdamW8bit": "adamw_torch_8bit", "torchao.optim.AdamW4bit": "adamw_torch_4bit",
    "torchao.optim.AdamWFp8": "ao_adamw_fp8", "torch.optim.SGD": "sgd", "torch.optim.Adagrad": "adagrad",
    "torch.optim.RMSprop": "rmsprop", "adamw": "adamw_torch",
    "nemo_automodel.components.optim.optimizer.FlashAdamWConfig": "flash_adamw", "flashoptim.FlashAdamW": "flash_adamw",
    "flash_adamw": "flash_adamw",
}  # fmt: skip
_BETAS = {"adam_beta1": 0.9, "adam_beta2": 0.999}
_WITHOUT = ("SGD", "Adagrad", "RMSprop")


def to_nemo(job: Job) -> None:
    """Axolotl's name to a class, its adam_* keys to arguments."""
    name = str(job.get("optimizer") or "adamw_torch_fused")
    of = "optimizer" if job.get("optimizer") is not None else ""
    target, more, verdict, why = _NEMO.get(
        name, (_ADAMW, {}, Verdict.NEEDS_YOU, f"NeMo has no {name}; AdamW is written in its place")
    )
    job.put("optimizer._target_", target, verdict, of, why or f"{name} is {target}" + ("" if of else ", the default"))
    for key, value in more.items():
        job.put(f"optimizer.{key}", value, Verdict.DERIVED, reason=f"part of {name}")
    _betas_to_nemo(job, target)
    if job.get("adam_epsilon") is not None and not target.endswith(_WITHOUT[:1]):
        job.put("optimizer.eps", job.get("adam_epsilon"), Verdict.RENAMED, "adam_epsilon")
    _arguments(job)
    for leaf in job.leaves:
        job.lose(leaf.path, f"{target} has no such argument", Verdict.DROPPED)


def _betas_to_nemo(job: Job, target: str) -> None:
    keys = [key for key in _BETAS if job.get(key) is not None]
    if keys and not target.endswith(_WITHOUT):
        betas = [job.get(key) if job.get(key) is not None else default for key, default in _BETAS.items()]
        job.put("optimizer.betas", betas, Verdict.DERIVED, keys, "both in one list")


def _arguments(job: Job) -> None:
    """`optim_args`, a mapping or `a=1,b=2`."""
    said = job.get("optim_args")
    if isinstance(said, dict):
        for key in said:
            path = f"optim_args.{key}"
            job.put(f"optimizer.{key}", job.get(path), Verdict.RENAMED, path)
    elif isinstance(said, str) and said:
        job.lose("optim_args", "write the arguments into optimizer, one a line", Verdict.NEEDS_YOU)


def to_axolotl(job: Job) -> None:
    """A class to Axolotl's name."""
    target = str(job.get("optimizer._target_") or _ADAMW)
    of = "optimizer._target_" if job.leaf("optimizer._target_") else ""
    name, verdict, why = _name(job, target)
    job.put("optimizer", name, verdict, of, why)
    betas = job.get("optimizer.betas")
    if isinstance(betas, str):
        betas = [float(part) for part in betas.strip("[]() ").split(",")]
    if isinstance(betas, (list, tuple)) and len(betas) == 2:
        for key, value in zip(_BETAS, betas, strict=True):
            job.put(key, value, Verdict.DERIVED, "optimizer.betas", "one key each")
    if job.get("optimizer.eps") is not None:
        job.put("adam_epsilon", job.get("optimizer.eps"), Verdict.RENAMED, "optimizer.eps")
    if job.leaf("optimizer.fused"):
        fused = job.get("optimizer.fused") and name == "adamw_torch_fused"
        job.say("optimizer.fused", Verdict.DERIVED if fused else Verdict.EXACT, "part of the optimizer's name")
    for leaf in job.leaves:
        if leaf.path.rpartition(".")[2] in ("foreach", "capturable", "differentiable"):
            job.say(leaf.path, Verdict.DROPPED, "how the update is launched, not what it computes")
        job.lose(leaf.path)


def _name(job: Job, target: str) -> tuple[str, Verdict, str]:
    if target in (_ADAMW, TYPED, "adamw") and job.get("optimizer.fused"):
        return "adamw_torch_fused", Verdict.DERIVED, ""
    if target in _BACK:
        return _BACK[target], Verdict.DERIVED, f"{target} is {_BACK[target]}"
    decay = job.get("optimizer.weight_decay")
    decay = 0.01 if decay is None and target.endswith("AdamConfig") else decay or 0
    if target in ("torch.optim.Adam", "adam"):
        if not decay:
            return "adamw_torch", Verdict.DERIVED, "without weight decay Adam and AdamW are the same"
        why = f"Adam adds {decay} x weight to the gradient (coupled), AdamW shrinks the weight beside it (decoupled)"
        return "adamw_torch", Verdict.APPROXIMATED, why
    if target.endswith("FusedAdam") or target == "fused_adam":
        if job.get("optimizer.adam_w_mode") is False and decay:
            return (
                "adamw_torch_fused",
                Verdict.APPROXIMATED,
                "Transformer Engine's Adam with coupled decay; AdamW is not",
            )
        why = "Transformer Engine's Adam keeps master weights of its own; torch's updates what FSDP holds"
        return "adamw_torch_fused", Verdict.APPROXIMATED, why
    last = target.rpartition(".")[2]
    for word, found in (("NorMuon", "muon"), ("Muon", "muon"), ("Dion", "dion")):
        if word in last:
            return found, Verdict.APPROXIMATED, f"{found} of another library, with its own rules for what is no matrix"
    return "adamw_torch", Verdict.NEEDS_YOU, f"Axolotl has no {target}; adamw_torch is written in its place"


def decay_to_nemo(job: Job) -> None:
    """Weight decay, and that transformers' Trainer spares norms and biases."""
    value = job.get("weight_decay")
    if value is None:
        why = "Axolotl's default, written out: torch's AdamW decays by 0.01"
        job.put("optimizer.weight_decay", 0.0, Verdict.DERIVED, "weight_decay" if job.leaf("weight_decay") else "", why)
        return
    target = job.draft.written["optimizer._target_"]
    spared = "transformers' Trainer spares norms and biases; NeMo decays whatever it trains unless told"
    if not value or job.source.has("adapter"):
        job.put("optimizer.weight_decay", value, Verdict.RENAMED, "weight_decay")
    elif target.value == _ADAMW:
        target.value = TYPED
        job.put("optimizer.weight_decay", value, Verdict.RENAMED, "weight_decay")
        groups = [{"pattern": SPARED, "wd_mult": 0.0}]
        job.put("optimizer.param_group_overrides", groups, Verdict.DERIVED, reason=spared)
    else:
        job.put("optimizer.weight_decay", value, Verdict.APPROXIMATED, "weight_decay", spared)


def decay_to_axolotl(job: Job) -> None:
    """`optimizer.weight_decay` and groups of parameters."""
    path, groups = "optimizer.weight_decay", job.get("optimizer.param_group_overrides")
    value = job.get(path)
    default = value is None
    value = 0.01 if default else value
    spares = isinstance(groups, list) and any(isinstance(g, dict) and g.get("pattern") == SPARED for g in groups)
    of = path if job.leaf(path) else ""
    if value and not job.source.has("peft") and not spares:
        why = "NeMo decays norms and biases too, transformers' Trainer spares them"
        job.put("weight_decay", value, Verdict.APPROXIMATED, of, why)
    else:
        why = "torch's default; Axolotl's is 0.0" if default else ""
        job.put("weight_decay", value, Verdict.DERIVED if default else Verdict.RENAMED, of, why)
    for leaf in job.leaves:
        if leaf.path.startswith("optimizer.param_group_overrides"):
            only = spares and isinstance(groups, list) and len(groups) == 1
            why = (
                "what transformers' Trainer does by itself"
                if only
                else "Axolotl has lr_groups for rates, none for decay"
            )
            job.say(leaf.path, Verdict.DERIVED if only else Verdict.NEEDS_YOU, why)


def clip_to_nemo(job: Job) -> None:
    """Gradient clipping; both clip at 1.0 where nothing is said."""
    value = job.get("max_grad_norm")
    if value is None:
        job.lose("max_grad_norm")
    elif isinstance(value, (int, float)) and value > 0:
        job.put("clip_grad_norm.max_norm", job.source.object("max_grad_norm"), Verdict.RENAMED, "max_grad_norm")
    else:
        why = "0 turns clipping off in transformers' Trainer; NeMo always clips, at a norm that no gradient reaches"
        job.put("clip_grad_norm.max_norm", 1.0e9, Verdict.DERIVED, "max_grad_norm", why)


def clip_to_axolotl(job: Job) -> None:
    """`clip_grad_norm`."""
    path = "clip_grad_norm.max_norm"
    value = job.get(path)
    if isinstance(value, (int, float)) and value >= 1e9:
        job.put("max_grad_norm", 0.0, Verdict.DERIVED, path, "no gradient reaches that norm: clipping is off")
    elif value is not None:
        job.put("max_grad_norm", job.source.object(path), Verdict.RENAMED, path)
    else:
        job.lose(path)
