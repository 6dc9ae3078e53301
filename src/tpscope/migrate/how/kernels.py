"""The loss, and kernels that compute the same faster."""

from __future__ import annotations

from tpscope.migrate.how.layout import add_plugin
from tpscope.migrate.job import Job
from tpscope.migrate.result import Verdict

_LOSS = "nemo_automodel.components.loss"
MASKED = f"{_LOSS}.masked_ce.MaskedCrossEntropy"
FUSED = f"{_LOSS}.linear_ce.FusedLinearCrossEntropy"
CHUNKED = f"{_LOSS}.chunked_ce.ChunkedCrossEntropy"
CCE_PLUGIN = "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"
LIGER_PLUGIN = "axolotl.integrations.liger.LigerPlugin"
_LIGER = ("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_layer_norm", "liger_swiglu",
          "liger_rms_norm_gated")  # fmt: skip
_HANDLED = ("CutCrossEntropyPlugin", "LigerPlugin", "ExpertParallelPlugin")


def to_nemo(job: Job) -> None:
    """Axolotl's plugins and flags to a loss and Liger's patches."""
    plugins = job.get("plugins") or []
    plugins = [plugins] if isinstance(plugins, str) else plugins
    cut = job.get("cut_cross_entropy")
    cut = any("CutCrossEntropy" in str(name) for name in plugins) if cut is None else cut
    target, verdict, of, why = MASKED, Verdict.DERIVED, "", "plain cross entropy over the logits"
    if cut:
        of = "cut_cross_entropy" if job.get("cut_cross_entropy") is not None else "plugins"
        target, why = FUSED, "cut cross entropy in both: the logits are never whole"
    elif job.get("chunked_cross_entropy"):
        target, of, why = CHUNKED, "chunked_cross_entropy", "in chunks of tokens in both"
    elif job.get("liger_fused_linear_cross_entropy"):
        target, of, verdict = FUSED, "liger_fused_linear_cross_entropy", Verdict.APPROXIMATED
        why = "NeMo's fused loss is cut cross entropy, Axolotl's here Liger's: the same sum in another order"
    job.put("loss_fn._target_", target, verdict, of, why)
    patched = [key for key in _LIGER if job.get(key) is True]
    if patched:
        why = "NeMo's use_liger_kernel puts in all of Liger's kernels that fit the model, not the ones that are named"
        job.put("model.use_liger_kernel", True, Verdict.APPROXIMATED, patched, why)
    else:
        why = "Axolotl patches nothing unless told; NeMo's default is true"
        job.put("model.use_liger_kernel", False, Verdict.DERIVED, reason=why)
    other = [str(name) for name in plugins if not str(name).endswith(_HANDLED)]
    if other:
        job.say(
            "plugins",
            Verdict.NEEDS_YOU,
            f"NeMo has nothing like {', '.join(name.rpartition('.')[2] for name in other)}",
        )
    job.lose("plugins", "what they switch on is said by the keys they read", Verdict.DERIVED)
    for leaf in job.leaves:
        job.lose(leaf.path, "another way to the same loss, which NeMo does not have", Verdict.DROPPED)


def to_axolotl(job: Job) -> None:
    """`loss_fn` and `model.use_liger_kernel`."""
    path = "loss_fn._target_"
    target = str(job.get(path) or MASKED)
    name = target.rpartition(".")[2]
    of = path if job.leaf(path) else ""
    if name.startswith("FusedLinear"):
        job.put("cut_cross_entropy", True, Verdict.DERIVED, of, "cut cross entropy in both")
        add_plugin(job, CCE_PLUGIN)
    elif name.startswith("Chunked"):
        job.put("chunked_cross_entropy", True, Verdict.DERIVED, of, "in chunks of tokens in both")
    elif name.startswith("Masked"):
        job.say(path, Verdict.DERIVED, "plain cross entropy over the logits, Axolotl's default")
    elif name.startswith("TEParallel"):
        job.say(
            path,
            Verdict.APPROXIMATED,
            "sharded over the vocabulary; Axolotl gathers the logits: the same loss, more memory",
        )
    else:
        job.say(path, Verdict.NEEDS_YOU, f"Axolotl has no {name}")
    job.lose("loss_fn.fp32_upcast", "Axolotl's loss computes in float32",
             Verdict.DERIVED if job.get("loss_fn.fp32_upcast") else Verdict.APPROXIMATED)  # fmt: skip
    usual = {"loss_fn.ignore_index": -100, "loss_fn.reduction": "sum"}
    for key, value in usual.items():
        job.lose(key, "the usual", Verdict.DERIVED if job.get(key) == value else Verdict.NEEDS_YOU)
    _liger_to_axolotl(job)
    for leaf in job.leaves:
        job.lose(leaf.path)


def _liger_to_axolotl(job: Job) -> None:
    path = "model.use_liger_kernel"
    if job.get(path) is False:
        job.say(path, Verdict.EXACT, "Axolotl patches nothing unless told")
        return
    why = "Liger's kernels where they fit the model: the same functions, rounded otherwise"
    if job.get(path) is True:
        job.put("liger_glu_activation", True, Verdict.APPROXIMATED, path, why)
        if job.ranks.tp > 1:
            none = "Axolotl refuses Liger's RMS norm under tensor parallelism: it is left out, the same function"
            job.put("", None, Verdict.APPROXIMATED, reason=none)
        else:
            job.put("liger_rms_norm", True, Verdict.APPROXIMATED, reason=why)
        job.put("liger_rope", True, Verdict.APPROXIMATED, reason=why)
        add_plugin(job, LIGER_PLUGIN)
    else:
        why = "NeMo's default takes Liger's kernels where liger-kernel is installed; Axolotl is told to take none"
        job.put("", None, Verdict.APPROXIMATED, reason=why)
