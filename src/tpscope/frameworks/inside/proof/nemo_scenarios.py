"""What NeMo has no setting for, or takes and ignores; and its checkpoints."""

from __future__ import annotations

import functools
import importlib
import os
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from tpscope.frameworks.inside import normal
from tpscope.frameworks.inside.case import Refused
from tpscope.frameworks.inside.proof import nemo_config
from tpscope.frameworks.inside.proof.driver import Work
from tpscope.frameworks.inside.trace import cite, failure
from tpscope.language.answer import Failure, TrailLine
from tpscope.language.verdict import Status

_PARALLELIZER = f"{nemo_config.DISTRIBUTED}.parallelizer"
_SEQUENCE = {"sequence_parallel", "sequence_parallel_all_gather", "rotary"}
_ADAPTER = "adapter_model.safetensors"


def unsupported(message: str, phase: str, where: TrailLine | None = None) -> None:
    """Raise Refused(unsupported)."""
    raise Refused(Status.UNSUPPORTED, Failure("NoSuchSetting", message, phase, where))


def check(work: Work) -> None:
    """Refuse what cannot be driven here."""
    scenario = work.request.scenario
    if scenario.compile:
        # Ranks start with torch.compile switched off, so that all other scenarios run eagerly.
        os.environ.pop("TORCHDYNAMO_DISABLE", None)
        torch._dynamo.config.disable = False
        torch._dynamo.utils.counters.clear()
        work.shim("torch.compile works on what NeMo compiles by its setting; what it compiles on import runs eagerly")
    if scenario.checkpointing and not nemo_config.has(f"{nemo_config.DISTRIBUTED}.config"):
        fields = importlib.import_module(f"{nemo_config.DISTRIBUTED}.fsdp2").FSDP2Manager.__dataclass_fields__
        if "activation_checkpointing" not in fields:
            unsupported("FSDP2Manager of this version has no setting activation_checkpointing", "check")


def compiled(work: Work) -> None:
    """Raise if compilation was asked for and no frame of the model was compiled."""
    if work.request.scenario.compile and not torch._dynamo.utils.counters["frames"].get("ok"):
        unsupported("torch.compile was asked for and nothing was compiled, and nothing was raised", "loop")


@contextmanager
def on_cpu_kernels(work: Work) -> Iterator[None]:
    """Context parallel is torch's, for attention kernels of CUDA: what the CPU's kernels raise in it says nothing of
    NeMo."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        inside = any("_context_parallel" in file for file in frames) or "_for_cpu" in str(error)
        if work.request.scenario.cp == 1 or not inside:
            raise
        words = " ".join(str(error).split())[:200]
        message = f"context parallel needs CUDA: torch shards only CUDA's attention kernels over cp; here: {words}"
        raise Refused(
            Status.UNSUPPORTED, Failure("NeedsCuda", message, "loop", failure(error, "loop", work.roots)[0].where)
        ) from error


@contextmanager
def no_silence(work: Work) -> Iterator[None]:
    """Raise if sequence parallel is asked for and the plan that NeMo selects meanwhile has no rule for it."""
    if not work.request.layout.sequence_parallel:
        yield
        return
    parallelizer = importlib.import_module(_PARALLELIZER)
    select = parallelizer._get_parallel_plan
    holders = [module for module in _users() if getattr(module, "_get_parallel_plan", None) is select]

    def selected(model: nn.Module, *arguments: Any, **options: Any) -> Any:
        raw = select(model, *arguments, **options)
        rules = normal.plan_of(dict(raw), model, "").rules
        named = any(rule.style.kind in _SEQUENCE or str(rule.style.output) == "Shard(dim=1)" for rule in rules)
        if not named:
            where = cite(work.roots, _PARALLELIZER.replace(".", "/") + ".py", "sequence_parallel", select.__name__)
            unsupported(
                "sequence_parallel was asked for and ignored: the selected plan has no rule that shards the sequence, "
                "and nothing was raised", "sharded", where,
            )  # fmt: skip
        return raw

    patches = [mock.patch.object(module, "_get_parallel_plan", selected) for module in holders]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


@contextmanager
def selections() -> Iterator[list[dict[str, Any]]]:
    """The plans that NeMo selects meanwhile, in order."""
    found: list[dict[str, Any]] = []
    parallelizer = importlib.import_module(_PARALLELIZER)
    select = parallelizer._get_parallel_plan

    @functools.wraps(select)
    def selected(*arguments: Any, **options: Any) -> Any:
        raw = select(*arguments, **options)
        found.append(dict(raw))
        return raw

    with ExitStack() as stack:
        for module in _users():
            if getattr(module, "_get_parallel_plan", None) is select:
                stack.enter_context(mock.patch.object(module, "_get_parallel_plan", selected))
        yield found


def _users() -> list[Any]:
    names = ("parallelizer", "fsdp2", "model_parallelizer")
    found = [f"{nemo_config.DISTRIBUTED}.{name}" for name in names]
    return [importlib.import_module(name) for name in found if nemo_config.has(name)]


# Checkpoints


def save(recipe: Any, folder: Path) -> Path:
    """What the recipe's `save_checkpoint` writes at the end of training: the folder that a user loads."""
    recipe.checkpointer.config.enabled = True
    recipe.checkpointer.config.checkpoint_dir = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dist.barrier()
    step = recipe.step_scheduler.step
    recipe.save_checkpoint(0, step, 0.0)
    dist.barrier()
    written = folder / f"epoch_0_step_{step}" / "model"
    return written if (written / _ADAPTER).is_file() else written / "consolidated"


def adapter(folder: Path) -> bool:
    """True for a folder that holds LoRA's matrices and not the model."""
    return (folder / _ADAPTER).is_file()


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Put the saved LoRA matrices into an unsharded model, by the names that PEFT gives them."""
    saved = {name.removeprefix("base_model.model."): value for name, value in load_file(folder / _ADAPTER).items()}
    own = {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}
    if missing := sorted(set(own) - set(saved)):
        raise KeyError(f"{_ADAPTER}: {len(missing)} of {len(own)} matrices are not in it, the first is {missing[0]}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved[name])
