"""Context parallelism of NeMo on fake tensors: torch's own ring around the attention kernel of the CPU.

torch routes the attention kernels of CUDA into its ring (torch/distributed/tensor/experimental/_context_parallel/
_attention.py:custom_ops); that of the CPU is not among them, and would attend to a rank's own tokens alone. The same
two functions of torch run here around it, so that gathers, exchanges and merges are torch's.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from tpscope.frameworks.inside.case import Case, Refused
from tpscope.language.answer import Failure
from tpscope.language.verdict import Status

_SEQUENCE = 2
_RING = "torch.distributed.tensor.experimental._context_parallel._attention"
_HOOKS = (
    "nemo_automodel.components.distributed.context_parallel.utils",
    "nemo_automodel.components.distributed.cp_utils",
)
_aten = torch.ops.aten
_FORWARD = _aten._scaled_dot_product_flash_attention_for_cpu.default
_BACKWARD = _aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def local_tokens(sequence: int, ranks: int) -> int:
    """Tokens of a sample that one rank has. Raises Refused where the two chunks of a rank are not whole."""
    if ranks > 1 and sequence % (2 * ranks):
        message = (
            f"context parallelism cuts a sequence into 2 x {ranks} chunks, and {sequence} tokens are not divisible"
        )
        raise Refused(Status.UNSUPPORTED, Failure("NotTraced", message, "model"))
    return sequence // ranks


def hooked(case: Case, model: nn.Module) -> list[str]:
    """NeMo's own hooks, which leave the mask to the attention kernel. Returns what is assumed."""
    for name in _HOOKS:
        try:
            hooks = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(hooks, "attach_context_parallel_hooks"):
            hooks.attach_context_parallel_hooks(model)
            case.shim("torch's ring runs around the attention kernel of the CPU, in the place of CUDA's")
            return [
                "every rank is given its own two chunks of a sample: cutting a batch into them is not priced",
                "the ring's exchanges are issued before a chunk's attention and waited for after it: priced beside "
                "the kernels of their phase",
            ]
    raise Refused(
        Status.UNSUPPORTED, Failure("NotTraced", "this version of NeMo has no context-parallel hooks", "model")
    )


@contextmanager
def ring(mesh: Any) -> Iterator[None]:
    """Attention over all ranks of a mesh while the block runs, the backward included."""
    torch_ring = importlib.import_module(_RING)
    dispatcher: Any = DTensor._op_dispatcher

    def forward(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        query, key, value, *rest = arguments
        causal = rest[1] if len(rest) > 1 else options.get("is_causal", False)
        out, sums = torch_ring._templated_ring_attention(
            mesh.get_group(), _SEQUENCE, _FORWARD, query=query._local_tensor, key=key._local_tensor,
            value=value._local_tensor, is_causal=causal, dropout_p=0.0, scale=options.get("scale"),
        )  # fmt: skip
        return _wrapped(out, mesh), _wrapped(sums, mesh)

    def backward(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        gradient, query, key, value, out, sums = (tensor._local_tensor for tensor in arguments[:6])
        found = torch_ring._templated_ring_attention_backward(
            mesh.get_group(), _SEQUENCE, _BACKWARD, grad_out=gradient, grad_out_name="grad_out", query=query, key=key,
            value=value, out=out, logsumexp=sums, is_causal=arguments[7], dropout_p=0.0, scale=options.get("scale"),
        )  # fmt: skip
        return tuple(_wrapped(tensor, mesh) for tensor in found[:3])

    torch_ring._enable_context_parallel_dispatcher_impl(seq_dim=_SEQUENCE, mesh=mesh)
    dispatcher._custom_op_handlers = {**dispatcher._custom_op_handlers, _FORWARD: forward, _BACKWARD: backward}
    try:
        yield
    finally:
        torch_ring._disable_context_parallel_dispatcher_impl()


def _wrapped(local: torch.Tensor, mesh: Any) -> DTensor:
    """A rank's part of a tensor that is cut over the sequence."""
    shape = list(local.shape)
    shape[_SEQUENCE] *= mesh.size()
    meta = TensorMeta(torch.Size(shape), local.stride(), local.dtype)
    return DTensor(local, DTensorSpec(mesh, (Shard(_SEQUENCE),), tensor_meta=meta), requires_grad=False)
