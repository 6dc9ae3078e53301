"""What one operator makes the GPU do: kernels with their FLOPs and bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from tpscope.frameworks.inside import wire

_aten = torch.ops.aten
# They make a tensor and write nothing into it.
_MAKES = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "lift_fresh", "empty_permuted")
# They read of their table what they write.
_PICKS = ("embedding", "index", "gather", "index_select", "nll_loss_forward", "nll_loss2d_forward")
# They write and read nothing of what they overwrite.
_WRITES = ("fill_", "zero_", "copy_")
# The lists that a multi-tensor operator works on: one entry a tensor.
Kernel = tuple[str, tuple[tuple[int, ...], ...], str, int, int, int, bool]


def kernels(
    func: Any, args: Any, kwargs: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor], experts: int = 0
) -> list[Kernel]:
    """Name, shapes, dtype, FLOPs, bytes read, bytes written, launched for itself. Nothing for a view. A rank that holds
    some of the model's `experts` gets as many of the tokens."""
    name = func._schema.name.removeprefix("aten::")
    storages = {wire.storage_of(tensor) for tensor in inputs}
    new = any(wire.storage_of(tensor) not in storages for tensor in outputs)
    if not (func._schema.is_mutable or new) or not (inputs or outputs) or name in _MAKES:
        return []
    if name.startswith(("_foreach_", "_fused_")):
        return _listed(name, args, outputs)
    read, written = sum(map(_bytes, inputs)), sum(map(_bytes, outputs))
    if name in _PICKS:
        read = written
    elif name in _WRITES:
        read = sum(map(_bytes, inputs[1:]))
    shapes = tuple(tuple(tensor.shape) for tensor in inputs)
    dtype = str((outputs or inputs)[0].dtype).removeprefix("torch.")
    return [(name, shapes, dtype, _flops(func, args, kwargs, outputs, experts), read, written, True)]


def _listed(name: str, args: Any, outputs: list[torch.Tensor]) -> list[Kernel]:
    lists = [
        value for value in args if isinstance(value, (list, tuple)) and value and isinstance(value[0], torch.Tensor)
    ]
    found: list[Kernel] = [(name, (), "", 0, 0, 0, True)]
    for together in zip(*lists, strict=False):
        written = sum(map(_bytes, together)) if name.startswith("_fused_") else _bytes(together[0])
        shapes = tuple(tuple(tensor.shape) for tensor in together)
        dtype = str(together[0].dtype).removeprefix("torch.")
        found.append((name, shapes, dtype, 0, sum(map(_bytes, together)), written, False))
    return found


def _flops(func: Any, args: Any, kwargs: Any, outputs: list[torch.Tensor], experts: int) -> int:
    """FLOPs; of attention with a causal mask, those of the half that is not masked."""
    packet = func._overloadpacket
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu:
        causal = len(args) > 4 and args[4]
        return sdpa_flop_count(*(tensor.shape for tensor in args[:3])) // (2 if causal else 1)
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu_backward:
        causal = args[7]
        return sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4])) // (2 if causal else 1)
    if packet is _aten._grouped_mm:
        one, other = args[0].shape, args[1].shape
        here = len(args[2]) if len(args) > 2 and args[2] is not None else experts
        return 2 * one[-2] * one[-1] * other[-1] * min(here, experts or here) // (experts or here or 1)
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=outputs[0] if len(outputs) == 1 else tuple(outputs)))
    return 0


def _bytes(tensor: torch.Tensor) -> int:
    """What is really there of it: an expanded tensor is as large as what it repeats."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
