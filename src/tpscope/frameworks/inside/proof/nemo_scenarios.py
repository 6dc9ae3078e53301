"""What NeMo has no setting for, or takes and ignores; and its checkpoints."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
from tpscope.frameworks.inside.trace import cite
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
    if scenario.compile and os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        message = "torch.compile is switched off in this process (TORCHDYNAMO_DISABLE=1): nothing would be compiled"
        raise Refused(Status.UNSUPPORTED, Failure("NoCompile", message, "check"))
    if scenario.checkpointing and not nemo_config.has(f"{nemo_config.DISTRIBUTED}.config"):
        fields = importlib.import_module(f"{nemo_config.DISTRIBUTED}.fsdp2").FSDP2Manager.__dataclass_fields__
        if "activation_checkpointing" not in fields:
            unsupported("FSDP2Manager of this version has no setting activation_checkpointing", "check")


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
