"""Models as transformers loads them: whole, sharded by its own engine, with PEFT's adapters; and their loss."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tpscope.frameworks.inside import hf_engine
from tpscope.frameworks.inside.proof.driver import MicroBatch, Work


def load(work: Work, checkpoint: Path, options: dict[str, Any]) -> nn.Module:
    """`AutoModelForCausalLM.from_pretrained` in float64, with what makes it sharded (nothing: the whole model)."""
    from transformers import AutoModelForCausalLM

    remote = {"trust_remote_code": True} if work.request.remote_code is not None else {}
    options = options | experts(work)
    return AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float64, **remote, **options)


def experts(work: Work) -> dict[str, str]:
    """How the experts of a mixture are asked to run, where this transformers has a choice."""
    from transformers import PreTrainedModel

    mixture = any("expert" in key for key in _keys(work.request.config))
    if not mixture or not hasattr(PreTrainedModel, "set_experts_implementation"):
        return {}
    work.shim("experts_implementation is eager: the default, grouped_mm, takes no float64")
    return {"experts_implementation": "eager"}


def _keys(config: dict[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        yield key
        if isinstance(value, dict):
            yield from _keys(value)


def distributed(asked: hf_engine.Asked) -> dict[str, Any]:
    """The arguments by which a user asks `from_pretrained` for a layout, by the engine that is installed."""
    if hf_engine.engine() != "distributed-config":
        return {"tp_plan": asked.plan, "tp_size": asked.tp}
    from transformers.distributed import DistributedConfig

    options: dict[str, Any] = {"tp_size": asked.tp}
    if isinstance(asked.plan, dict):
        options["tp_plan"] = asked.plan
    if asked.fsdp > 1:
        known = inspect.signature(DistributedConfig).parameters
        options["dp_shard_size" if "dp_shard_size" in known else "fsdp_size"] = asked.fsdp
    return {"distributed_config": DistributedConfig(**options)}


@contextmanager
def files_on_cpu(work: Work) -> Iterator[None]:
    """transformers 4 opens a rank's weights on the device of that number, which a CPU does not have."""
    loader = importlib.import_module("transformers.modeling_utils")
    if hf_engine.engine() != "hooks":
        yield
        return
    opened = loader.safe_open
    work.shim("safe_open of a device number opens on the CPU: transformers names the device cpu:<LOCAL_RANK>")
    loader.safe_open = lambda *given, device="cpu", **options: opened(
        *given, device="cpu" if isinstance(device, int) else device, **options
    )
    try:
        yield
    finally:
        loader.safe_open = opened


def loss(model: nn.Module, batch: MicroBatch, tokens: int) -> tuple[torch.Tensor, Any]:
    """The model's own loss, as the Trainer asks for it: the sum over labels divided by `tokens`. A model that does not
    take the number of labels gives the mean over its own, which is brought to the same denominator."""
    if takes_count(model):
        output = model(**batch, num_items_in_batch=tokens)
        return output.loss, output.logits
    output = model(**batch)
    own = int((batch["labels"][:, 1:] != -100).sum())
    return output.loss * (own / tokens), output.logits


def checkpointed(work: Work, model: nn.Module, options: dict[str, Any] | None = None) -> nn.Module:
    """The model with its own activation checkpointing on under that scenario, as the Trainer turns it on."""
    if work.request.scenario.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    return model


def planned(model: nn.Module) -> dict[str, Any]:
    """The plan that a model was loaded with, where it was cut by its own."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return dict(getattr(base, "tp_plan", None) or {})


def takes_count(model: nn.Module) -> bool:
    """True if the Trainer hands this model the number of labels (the same question that the Trainer asks)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(inner, "accepts_loss_kwargs"):
        return bool(inner.accepts_loss_kwargs)
    kinds = [parameter.kind for parameter in inspect.signature(inner.forward).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds
