"""How the ranks share the model and the data."""

from __future__ import annotations

from tpscope.migrate.how.simple import same
from tpscope.migrate.job import Job
from tpscope.migrate.result import Verdict

_EP_PLUGIN = "axolotl.integrations.expert_parallel.ExpertParallelPlugin"
_OFFLOAD = "torch.distributed.fsdp.CPUOffloadPolicy"


def size(job: Job) -> None:
    """The size of an axis; sizes below one count as not stated in both frameworks."""
    stated = [leaf for leaf in job.leaves if isinstance(job.get(leaf.path), int) and job.get(leaf.path) >= 1]
    for leaf in job.leaves:
        if leaf not in stated:
            job.lose(leaf.path, "counts as not stated", Verdict.EXACT)
    job.leaves = stated
    if stated:
        same(job)


def experts_to_nemo(job: Job) -> None:
    """Expert parallelism, which is a plugin in Axolotl."""
    path = "expert_parallel_size"
    value = job.get(path)
    if isinstance(value, int) and value > 1:
        why = "NeMo has it for its own model classes only, and takes the ranks from dp and cp"
        job.put("distributed.ep_size", value, Verdict.APPROXIMATED, path, why)
    else:
        job.lose(path, "one rank holds all experts", Verdict.EXACT)


def experts_to_axolotl(job: Job) -> None:
    """`distributed.ep_size`."""
    path = "distributed.ep_size"
    value = job.get(path)
    if isinstance(value, int) and value > 1:
        why = "Axolotl's plugin needs deep_ep, and an axis of its own beside dp_shard"
        job.put("expert_parallel_size", value, Verdict.APPROXIMATED, path, why)
        add_plugin(job, _EP_PLUGIN)
    else:
        job.lose(path, "one rank holds all experts", Verdict.EXACT)


def add_plugin(job: Job, name: str) -> None:
    """Add to the list of Axolotl's plugins."""
    have = job.draft.written.get("plugins")
    if have is None:
        job.put("plugins", [name], Verdict.DERIVED, reason="what reads the keys that are written for it")
    elif name not in have.value:
        have.value.append(name)


def sharding_to_nemo(job: Job) -> None:
    """FSDP, DeepSpeed, plain data parallelism: NeMo's strategy and sizes."""
    fsdp = _fsdp(job)
    deepspeed = job.get("deepspeed")
    parts = [(key, job.get(key)) for key in ("dp_shard_size", "dp_replicate_size")]
    shard, replicate = (value if isinstance(value, int) and value >= 1 else None for _, value in parts)
    _strategy(job, fsdp, deepspeed, shard)
    if shard is not None:
        total = shard * (replicate or 1)
        why = f"NeMo's dp_size counts shards x copies: {shard} x {replicate or 1} = {total}"
        job.put("distributed.dp_size", total, Verdict.DERIVED, "dp_shard_size", why)
    if replicate is not None:
        job.put("distributed.dp_replicate_size", replicate, Verdict.RENAMED, "dp_replicate_size")
    for key, _ in parts:
        job.lose(key, "counts as not stated", Verdict.EXACT)


def _fsdp(job: Job) -> bool:
    return bool(job.get("fsdp") or job.get("fsdp_config"))


def _strategy(job: Job, fsdp: bool, deepspeed: object, shard: int | None) -> None:
    ranks = job.ranks
    plain = not fsdp and not deepspeed
    name = "distributed.strategy"
    if fsdp:
        of = [path for path in ("fsdp_version", "fsdp_config.fsdp_version", "fsdp") if job.get(path) is not None]
        old = job.first("fsdp_version", "fsdp_config.fsdp_version")[1] != 2
        why = "NeMo has FSDP2 only: the same math, other buffers" if old else "FSDP2 in both"
        job.put(name, "fsdp2", Verdict.APPROXIMATED if old else Verdict.DERIVED, of, why)
    elif deepspeed:
        why = "ZeRO shards what FSDP2 shards; what else its file sets (offload, buckets) is not read"
        job.put(name, "fsdp2", Verdict.APPROXIMATED, "deepspeed", why)
    elif plain and ranks.tp * ranks.cp * ranks.ep == 1 and (shard or 1) == 1:
        why = "every rank holds the whole model, as Axolotl does without fsdp_config and deepspeed"
        job.put(name, "ddp", Verdict.DERIVED, reason=why)
    else:
        why = "NeMo shards over the data ranks what Axolotl copies there: the same math, less memory"
        alone = (ranks.data or 1) == 1
        job.put(name, "fsdp2", Verdict.DERIVED if alone else Verdict.APPROXIMATED, reason=why)
    for leaf in job.leaves:
        if leaf.path in ("fsdp", "fsdp_version", "fsdp_config", "deepspeed", "fsdp_config.fsdp_version"):
            job.lose(leaf.path, "said by the strategy", Verdict.DERIVED)


def sharding_to_axolotl(job: Job) -> None:
    """NeMo's strategy and sizes to Axolotl's."""
    if not job.source.has("distributed"):
        return
    said = f"{job.get('distributed.strategy') or ''} {job.get('distributed._target_') or ''}".lower()
    of = next((path for path in ("distributed.strategy", "distributed._target_") if job.get(path) is not None), "")
    if "ddp" in said:
        job.say(of, Verdict.DERIVED, "what Axolotl does without fsdp_config")
    else:
        megatron = "megatron" in said
        why = "Axolotl has no Megatron-FSDP: FSDP2 shards the same" if megatron else "FSDP2 in both"
        verdict = Verdict.APPROXIMATED if megatron else Verdict.DERIVED
        job.put("fsdp_version", 2, verdict, of, why)
        wrap = "each layer is a unit, as NeMo's FSDP2 takes them"
        job.put("fsdp_config.auto_wrap_policy", "TRANSFORMER_BASED_WRAP", Verdict.DERIVED, reason=wrap)
    _sizes_to_axolotl(job, "ddp" in said)
    for leaf in job.leaves:
        job.lose(leaf.path, "said by the strategy", Verdict.DERIVED)


def _sizes_to_axolotl(job: Job, whole: bool) -> None:
    total, copies = job.get("distributed.dp_size"), job.get("distributed.dp_replicate_size")
    copies = copies if isinstance(copies, int) and copies >= 1 else None
    if isinstance(total, int) and total >= 1 and not whole:
        shard, left = divmod(total, copies or 1)
        if left:
            why = f"dp_size {total} is no multiple of dp_replicate_size {copies}, which NeMo refuses too"
            job.say("distributed.dp_size", Verdict.NEEDS_YOU, why)
        else:
            why = f"dp_size counts shards x copies: {total} / {copies or 1} = {shard}"
            job.put("dp_shard_size", shard, Verdict.DERIVED, "distributed.dp_size", why)
    elif isinstance(total, int) and whole:
        job.say("distributed.dp_size", Verdict.DERIVED, "Axolotl takes every rank that is left")
    if copies is not None:
        job.put("dp_replicate_size", copies, Verdict.RENAMED, "distributed.dp_replicate_size")
    for name in ("dp_size", "dp_replicate_size"):
        job.lose(f"distributed.{name}", "counts as not stated", Verdict.EXACT)


def offload_to_nemo(job: Job) -> None:
    """Parameters in the memory of the host."""
    for leaf in job.leaves:
        if job.get(leaf.path) is True:
            job.put("distributed.offload_policy._target_", _OFFLOAD, Verdict.DERIVED, leaf.path, "FSDP2's own policy")
        else:
            job.lose(leaf.path)


def offload_to_axolotl(job: Job) -> None:
    """`distributed.offload_policy`."""
    for leaf in job.leaves:
        if job.get(leaf.path) is None:
            job.lose(leaf.path)
        else:
            job.put("fsdp_config.offload_params", True, Verdict.DERIVED, leaf.path, "FSDP2's own policy")


def checkpointing_to_nemo(job: Job) -> None:
    """Activations that are computed again in backward."""
    ours = "distributed.activation_checkpointing"
    keys = ("gradient_checkpointing", "fsdp_config.activation_checkpointing",
            "fsdp_config.fsdp_activation_checkpointing")  # fmt: skip
    for key in keys:
        value = job.get(key)
        if value in (None, False):
            job.lose(key)
        elif value is True:
            job.put(ours, True, Verdict.DERIVED, key, "whole layers are computed again; the gradients are the same")
        else:
            why = f"{value} also moves activations to the host, which NeMo does not"
            job.put(ours, True, Verdict.APPROXIMATED, key, why)
    for leaf in job.leaves:
        if leaf.path.startswith("selective_checkpointing") and not job.asks_nothing(leaf.value):
            why = "NeMo chooses what to keep by PyTorch's own policy"
            job.put(ours, "selective", Verdict.APPROXIMATED, leaf.path, why)
        job.lose(leaf.path, "how transformers checkpoints; NeMo's is non-reentrant", Verdict.DERIVED)


def checkpointing_to_axolotl(job: Job) -> None:
    """`distributed.activation_checkpointing`, true, full or selective."""
    for leaf in job.leaves:
        value = job.get(leaf.path)
        word = str(value).lower()
        if word == "selective":
            why = "Axolotl's selective checkpointing keeps other operations; whole layers are the safe choice"
            job.put("gradient_checkpointing", True, Verdict.APPROXIMATED, leaf.path, why)
        elif word in ("true", "full", "on", "yes", "enabled"):
            job.put("gradient_checkpointing", True, Verdict.DERIVED, leaf.path, "the gradients are the same")
        else:
            job.lose(leaf.path, "no checkpointing, as Axolotl without the key", Verdict.EXACT)


def pipeline(job: Job) -> None:
    """Axolotl has no pipeline parallelism."""
    on = isinstance(job.get("distributed.pp_size"), int) and job.get("distributed.pp_size") > 1
    for leaf in job.leaves:
        if on:
            why = (
                "Axolotl has no pipeline parallelism: its stages become data ranks, and each must hold the whole depth"
            )
            job.lose(leaf.path, why, Verdict.NEEDS_YOU)
        else:
            job.say(leaf.path, Verdict.EXACT, "without pipeline stages nothing reads it")
