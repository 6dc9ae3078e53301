"""Kernels by which a machine is calibrated: what each does, as a function to be timed, at a size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

Run = Callable[[], Any]
_BF16 = torch.bfloat16


@dataclass(frozen=True)
class Kernel:
    """One thing to time: its kind, its size in words and numbers, and what makes the function, inputs included.

    `calls` of it are timed together where one is too short for a clock. `early`: comes before the others of its kind.
    """

    kind: str
    size: dict[str, Any]
    make: Callable[[], Run]
    calls: int = 1
    host: bool = False
    early: bool = False


def matmul(m: int, k: int, n: int, way: str, device: torch.device) -> Run:
    """A linear layer over `m` tokens from `k` to `n` features: its forward, its input's or its weight's gradient."""
    inputs, weight = torch.randn(m, k, device=device, dtype=_BF16), torch.randn(n, k, device=device, dtype=_BF16)
    if way == "forward":
        return lambda: inputs @ weight.t()
    grad = torch.randn(m, n, device=device, dtype=_BF16)
    return (lambda: grad @ weight) if way == "dgrad" else (lambda: grad.t() @ inputs)


def memory(op: str, rows: int, width: int, device: torch.device) -> Run:
    """A kernel bound by memory over `[rows, width]` in bf16; cross entropy and softmax in fp32, as losses take them."""
    one = torch.randn(rows, width, device=device, dtype=_BF16)
    if op == "add":
        other = torch.randn_like(one)
        return lambda: one + other
    if op == "silu_mul":
        other = torch.randn_like(one)
        return lambda: F.silu(one) * other
    if op == "copy":
        other = torch.empty_like(one)
        return lambda: other.copy_(one)
    if op == "cast":
        return lambda: one.float()
    if op == "rms_norm_eager":
        weight = torch.ones(width, device=device, dtype=_BF16)
        return lambda: _rms_norm(one, weight)
    if op == "rms_norm":
        weight = torch.ones(width, device=device, dtype=_BF16)
        return lambda: F.rms_norm(one, (width,), weight)
    if op == "embedding":
        table = torch.randn(32768, width, device=device, dtype=_BF16)
        ids = torch.randint(0, 32768, (rows,), device=device)
        return lambda: F.embedding(ids, table)
    wide = one.float()
    if op == "softmax":
        return lambda: F.softmax(wide, -1)
    labels = torch.randint(0, width, (rows,), device=device)
    return lambda: F.cross_entropy(wide, labels)


def moved(op: str, rows: int, width: int) -> int:
    """Bytes that the kernel must read and write at least; for chains of kernels, of every kernel in the chain."""
    numbers = rows * width
    per = {
        "add": 6, "silu_mul": 4 + 6, "copy": 4, "cast": 6, "rms_norm": 4, "embedding": 4, "softmax": 8,
        # Cast, square, mean, scale, cast, weigh: what transformers' class runs.
        "rms_norm_eager": 6 + 8 + 4 + 8 + 6 + 4, "cross_entropy": 8,
    }  # fmt: skip
    return numbers * per[op]


def _rms_norm(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = hidden.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * wide.to(hidden.dtype)


def attention(sequence: int, heads: int, kv_heads: int, width: int, backward: bool, device: torch.device) -> Run:
    """Causal SDPA as the frameworks call it on CUDA (grouped heads, no mask), its forward or forward and backward."""
    shape, shared = (1, heads, sequence, width), (1, kv_heads, sequence, width)
    options: dict[str, Any] = {"device": device, "dtype": _BF16, "requires_grad": backward}
    query = torch.randn(*shape, **options)
    key, value = torch.randn(*shared, **options), torch.randn(*shared, **options)

    def forward() -> torch.Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=heads != kv_heads)

    if not backward:
        return forward
    grad = torch.randn(*shape, device=device, dtype=_BF16)
    return lambda: forward().backward(grad)


def collective(op: str, size: int, ranks: int, device: torch.device) -> Run:
    """A collective of the default group whose whole tensor has `size` bytes in bf16."""
    numbers = size // 2
    whole = torch.randn(numbers, device=device, dtype=_BF16)
    part = torch.randn(numbers // ranks, device=device, dtype=_BF16)
    if op == "all_reduce":
        return lambda: dist.all_reduce(whole)
    if op == "all_gather":
        return lambda: dist.all_gather_into_tensor(whole, part)
    return lambda: dist.reduce_scatter_tensor(part, whole)


def dispatch(op: str, device: torch.device) -> Run:
    """An operation so small that the CPU's share of it is all there is: eager, with autograd, and over DTensors."""
    small = torch.randn(8, 64, device=device, dtype=_BF16)
    if op == "eager_add":
        return lambda: small + small
    if op == "eager_add_autograd":
        tracked = small.clone().requires_grad_()
        return lambda: tracked + tracked
    weight = torch.randn(64, 64, device=device, dtype=_BF16)
    if op == "eager_linear":
        return lambda: F.linear(small, weight)
    if op == "module_call":
        module = nn.Identity()
        return lambda: module(small)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    cut = distribute_tensor(weight, mesh, [Shard(0)])
    whole = distribute_tensor(small, mesh, [Replicate()])
    if op == "dtensor_add":
        return lambda: cut + cut
    if op == "dtensor_linear":
        return lambda: F.linear(whole, cut)
    if op == "dtensor_linear_autograd":
        learned = nn.Parameter(cut)
        return lambda: F.linear(whole, learned)
    if op == "dtensor_to_local":
        return lambda: cut.to_local()
    if op == "dtensor_from_local":
        from torch.distributed.tensor import DTensor

        return lambda: DTensor.from_local(small, mesh, [Replicate()], run_check=False)
    functional = torch.distributed._functional_collectives
    return lambda: functional.wait_tensor(functional.all_reduce(small, "sum", mesh))


def optimizer(way: str, numbers: int, tensors: int, device: torch.device) -> Run:
    """AdamW's step over `tensors` bf16 parameters of together `numbers` elements: foreach, fused or one by one."""
    parameters = [nn.Parameter(torch.randn(numbers // tensors, device=device, dtype=_BF16)) for _ in range(tensors)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    made = torch.optim.AdamW(parameters, lr=0.0, foreach=way == "foreach", fused=way == "fused")
    made.step()
    return made.step
