"""Context parallelism: every rank has a part of each sequence, and attention sees the keys and values of all of it.

Keys and values are gathered over the axis in front of the model's own attention function, their gradients are
scattered back. Parts are contiguous, so that later ranks attend to more keys than earlier ones.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from tpscope.engine.collectives import ProcessAxis, gather_sequence
from tpscope.engine.regions import outermost_lists
from tpscope.errors import UserError

NAME = "tpscope_context"
_KINDS = {"full_attention", "sliding_attention", "attention"}
IGNORED = -100


@dataclass
class _Context:
    """The axis of a model, its attention function before, and how often that ran in the newest forward pass."""

    axis: ProcessAxis
    inner: str
    seen: int = 0


def context_parallel(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Let a Hugging Face model attend over the `cp` axis of a mesh, in place. Feed it what `context_part` gives.

    Call it after `parallelize`. Raises UserError where layers do other things than attend, which is also looked at in
    every forward pass.
    """
    axis = ProcessAxis(mesh["cp"].get_group())
    if axis.size == 1:
        return model
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config: Any = model.config
    text = config.get_text_config()
    other = sorted(set(getattr(text, "layer_types", None) or ()) - _KINDS)
    if other:
        raise UserError(f"context parallelism: layers of {type(model).__name__} are {', '.join(other)}, not attention")
    context = _Context(axis, text._attn_implementation)
    ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
    for module in model.modules():
        own: Any = module.__dict__.get("config")
        if own is not None and hasattr(own, "_attn_implementation"):
            own._attn_implementation = NAME
        module.__dict__["_tpscope_context"] = context
    name = outermost_lists(model)[0]
    layers = sum(any(True for _ in layer.parameters()) for layer in model.get_submodule(name).children())
    decoder = model.get_submodule(name.rpartition(".")[0])

    def before(*_: Any) -> None:
        context.seen = 0

    def after(*_: Any) -> None:
        if context.seen != layers:
            raise UserError(
                f"context parallelism: {context.seen} of {layers} layers of {type(model).__name__} attended through "
                "transformers' attention functions; the others would see a part of the sequence only"
            )

    decoder.register_forward_pre_hook(before)
    decoder.register_forward_hook(after)
    return model


def context_part(batch: dict[str, torch.Tensor], mesh: DeviceMesh) -> dict[str, torch.Tensor]:
    """This rank's part of a batch of whole sequences: ids, positions, and labels that are shifted before they are cut.

    The loss of a part is a part of the loss: give the model `num_items_in_batch` of the whole batch.
    """
    axis = mesh["cp"]
    ranks, rank = axis.size(), axis.get_local_rank()
    if ranks == 1:
        return batch
    batch = dict(batch)
    length = batch["input_ids"].shape[1]
    if length % ranks:
        raise UserError(
            f"a sequence of {length} tokens cannot be cut over {ranks} context-parallel ranks; pad to a multiple"
        )
    if "position_ids" in batch:
        raise UserError("context parallelism: positions of packed samples are not supported; leave position_ids out")
    batch["position_ids"] = torch.arange(length, device=batch["input_ids"].device).expand_as(batch["input_ids"])
    if "labels" in batch:
        shifted = nn.functional.pad(batch["labels"], (0, 1), value=IGNORED)[:, 1:]
        batch["labels"] = batch["shift_labels"] = shifted
    return {name: tensor.chunk(ranks, 1)[rank].contiguous() for name, tensor in batch.items()}


def _attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **given: Any
) -> Any:
    """An attention function of transformers. query, key, value `[batch, heads, seq / ranks, head]`."""
    context: _Context = module.__dict__["_tpscope_context"]
    context.seen += 1
    axis, length = context.axis, query.shape[2]
    key, value = (gather_sequence(item.transpose(1, 2).contiguous(), axis).transpose(1, 2) for item in (key, value))
    rows = axis.rank * length + torch.arange(length, device=query.device)
    columns = torch.arange(length * axis.size, device=query.device)
    seen = columns <= rows[:, None]
    window = given.get("sliding_window")
    if window is not None:
        seen &= columns > rows[:, None] - window
    seen = seen[None, None]
    if attention_mask is not None:
        if attention_mask.dim() != 2:
            raise UserError("context parallelism: an attention mask of its own is not supported; give one [batch, seq]")
        # A padded token sees itself, so that no row is empty.
        own = columns == rows[:, None]
        seen = (seen & axis.gathered(attention_mask)[:, None, None].bool()) | own
    if context.inner == "eager":
        function = sys.modules[type(module).__module__].eager_attention_forward
        mask = torch.zeros(seen.shape, dtype=query.dtype, device=query.device)
        mask = mask.masked_fill(~seen, torch.finfo(query.dtype).min)
    else:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        function, mask = ALL_ATTENTION_FUNCTIONS[context.inner], seen
    return function(module, query, key, value, mask, **given)
