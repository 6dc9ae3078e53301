"""Logits that are computed only if somebody looks at them: the loss takes the head's input and weight, chunk by chunk.

The head gives a tensor that stands for `[batch, seq, vocabulary]`. What a model does to it on the way to its loss (a
cast, a scale, a softcap, a slice of the sequence) is remembered; `cross_entropy` of it runs on chunks of tokens over
the ranks' slices of the vocabulary, so that full logits never exist. Anything else computes them whole on every rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from tpscope.engine.collectives import Axis
from tpscope.engine.vocabulary import IGNORED, gather_last
from tpscope.errors import UserError

Elementwise = Callable[[torch.Tensor], torch.Tensor]
CHUNK_ELEMENTS = 2**26
# Operations on single numbers, by which models change logits before their loss.
_ELEMENTWISE = {
    "float", "double", "half", "bfloat16", "to", "type", "contiguous", "tanh", "mul", "div", "true_divide", "divide",
    "detach", "multiply", "__mul__", "__rmul__", "__truediv__", "__imul__", "__itruediv__", "__idiv__", "neg", "clamp",
}  # fmt: skip
_TENSOR: Any = torch.Tensor
_SEEN = ("shape", "dtype", "device", "requires_grad", "ndim", "is_cuda", "layout", "is_meta", "grad_fn", "is_leaf")
_ASKED = {
    *(getattr(_TENSOR, name).__get__ for name in _SEEN), _TENSOR.size, _TENSOR.dim, _TENSOR.numel, _TENSOR.__len__,
    _TENSOR.is_floating_point, torch.is_floating_point, _TENSOR.is_complex, torch.is_complex, _TENSOR.get_device,
    _TENSOR._is_view, _TENSOR.stride,
}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What logits are made of. hidden `[..., hidden]`, weight `[local vocabulary, hidden]`; `changes` in order."""

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    sizes: tuple[int, ...]
    axis: Axis
    dtype: torch.dtype
    changes: tuple[Elementwise, ...] = ()

    def changed(self, logits: torch.Tensor) -> torch.Tensor:
        """The rank's logits as the model changed them."""
        for change in self.changes:
            logits = change(logits)
        return logits

    def whole(self) -> torch.Tensor:
        """All logits, on every rank. Raises UserError where FSDP has taken the head's weight away again."""
        if self.weight.untyped_storage().size() == 0:
            raise UserError("logits are looked at after backward, when FSDP holds the head in parts; do it before")
        mine = functional.linear(self.hidden, self.weight, self.bias)
        return self.changed(gather_last(mine, self.sizes, self.axis))


class Logits(torch.Tensor):
    """Stands for logits that have not been computed."""

    parts: Parts

    @staticmethod
    def __new__(cls, parts: Parts) -> Logits:
        """A tensor without numbers of its own."""
        shape = (*parts.hidden.shape[:-1], sum(parts.sizes))
        made = _TENSOR._make_wrapper_subclass(cls, shape, dtype=parts.dtype, device=parts.hidden.device)
        made.parts = parts
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Remember, take the loss, or compute the logits after all."""
        kwargs = kwargs or {}
        if func in _ASKED:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        me = args[0] if args else kwargs.get("input")
        if isinstance(me, Logits):
            found = _taken(func, me.parts, args[1:], {key: item for key, item in kwargs.items() if item is not me})
            if found is not None:
                return found
        shown = tree_map(lambda item: item.parts.whole() if isinstance(item, Logits) else item, (list(args), kwargs))
        return func(*shown[0], **shown[1])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Below autograd there is nothing to compute with."""
        raise RuntimeError(f"{func} reached logits that were not computed; parallelize with logits='whole'")


def _taken(func: Any, parts: Parts, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """What an operation gives without logits, None if it needs them."""
    name = getattr(func, "__name__", "")
    if name in _ELEMENTWISE:
        if any(isinstance(item, torch.Tensor) and item.dim() for item in (*args, *kwargs.values())):
            return None
        seen = func(torch.empty(0, dtype=parts.dtype, device=parts.hidden.device), *args, **kwargs)
        out = _unplaced(name)
        change = lambda logits: out(func)(logits, *args, **kwargs)  # noqa: E731
        return Logits(replace(parts, dtype=seen.dtype, changes=(*parts.changes, change)))
    if name == "detach_":
        return Logits(replace(parts, hidden=parts.hidden.detach(), weight=parts.weight.detach()))
    if name == "__getitem__":
        return _indexed(parts, args[0])
    if name in ("view", "reshape") and func in (_TENSOR.view, _TENSOR.reshape, torch.reshape):
        return _reshaped(parts, args)
    if func is functional.cross_entropy:
        return _loss(parts, *args, **kwargs)
    return None


def _unplaced(name: str) -> Callable[[Any], Any]:
    """In-place operators are kept as what they give: a chunk is not to be changed under autograd."""
    plain = {"__imul__": torch.mul, "__itruediv__": torch.true_divide, "__idiv__": torch.true_divide}
    return lambda func: plain.get(name, func)


def _indexed(parts: Parts, index: Any) -> torch.Tensor | None:
    items = list(index) if isinstance(index, tuple) else [index]
    lead = parts.hidden.dim() - 1
    if Ellipsis in items:
        place = items.index(Ellipsis)
        items[place : place + 1] = [slice(None)] * (lead + 1 - (len(items) - 1))
    if not all(isinstance(item, int | slice) for item in items) or len(items) > lead + 1:
        return None
    if len(items) == lead + 1 and items.pop() != slice(None):
        return None
    return Logits(replace(parts, hidden=parts.hidden[tuple(items)]))


def _reshaped(parts: Parts, args: tuple[Any, ...]) -> torch.Tensor | None:
    shape = list(args[0]) if len(args) == 1 and not isinstance(args[0], int) else list(args)
    if not shape or not all(isinstance(item, int) for item in shape) or shape[-1] not in (-1, sum(parts.sizes)):
        return None
    if shape[-1] == -1:
        lead = shape[:-1]
        if -1 in lead or torch.Size(lead).numel() * parts.hidden.shape[-1] != parts.hidden.numel():
            return None
    return Logits(replace(parts, hidden=parts.hidden.reshape(*shape[:-1], parts.hidden.shape[-1])))


def _loss(
    parts: Parts, target: Any, weight: Any = None, size_average: Any = None, ignore_index: int = IGNORED,
    reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> torch.Tensor | None:  # fmt: skip
    """`cross_entropy` of rows `[tokens, vocabulary]`, None where what was asked for is not done in chunks."""
    plain = weight is None and size_average is None and reduce is None and not label_smoothing
    if not plain or reduction not in ("mean", "sum") or parts.hidden.dim() != 2 or target.dim() != 1:
        return None
    counted = target != ignore_index
    if target.device.type == "cpu" and bool((counted & ((target < 0) | (target >= sum(parts.sizes)))).any()):
        raise IndexError(f"a label is outside of the vocabulary of {sum(parts.sizes)}")
    total: torch.Tensor = _ChunkedCrossEntropy.apply(
        parts.hidden, parts.weight, parts.bias, target, ignore_index, parts
    )  # type: ignore[assignment]
    return total / counted.sum() if reduction == "mean" else total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed negative log-likelihood of `hidden @ weight.T`, chunk by chunk; gradients are made in the forward pass.

    hidden `[tokens, hidden]`, weight `[local vocabulary, hidden]`, target `[tokens]` in the whole vocabulary. A chunk
    takes two small all-reduces: the largest logits, then the sums of exponentials and the right logits.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, target: torch.Tensor,
        ignore_index: int, parts: Parts,
    ) -> torch.Tensor:  # fmt: skip
        begin = sum(parts.sizes[: parts.axis.rank])
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[:3]
        wide = torch.promote_types(weight.dtype, torch.float32)
        loss = torch.zeros((), dtype=torch.promote_types(parts.dtype, torch.float32), device=hidden.device)
        d_hidden = torch.empty_like(hidden) if of_hidden else None
        d_weight = torch.zeros_like(weight, dtype=wide) if of_weight else None
        d_bias = torch.zeros_like(bias, dtype=wide) if of_bias and bias is not None else None
        size = max(1, CHUNK_ELEMENTS // max(parts.sizes))  # the same on every rank
        for rows, labels, place in zip(
            hidden.split(size), target.split(size), range(0, len(hidden), size), strict=True
        ):
            with torch.enable_grad():
                raw = functional.linear(rows.detach(), weight.detach(), None if bias is None else bias.detach())
                raw = raw.detach().requires_grad_(any(ctx.needs_input_grad))
                shown = parts.changed(raw)
            found, slope = _chunk(shown.detach(), labels, begin, ignore_index, parts.axis)
            loss += found
            if not any(ctx.needs_input_grad):
                continue
            slope = slope.to(shown.dtype)
            d_raw = torch.autograd.grad(shown, raw, slope)[0] if parts.changes else slope
            if d_hidden is not None:
                d_hidden[place : place + len(rows)] = d_raw @ weight
            if d_weight is not None:
                _add_product(d_weight, d_raw.t(), rows)
            if d_bias is not None:
                d_bias += d_raw.sum(0)
        # Rounded once, as one product over all tokens is. Wide, it would lie beside all activations until backward.
        d_weight, d_bias = (None if item is None else item.to(weight.dtype) for item in (d_weight, d_bias))
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return loss.to(parts.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        found = (None if item is None else (item * gradient).to(item.dtype) for item in ctx.saved_tensors)
        return (*found, None, None, None)


def _add_product(total: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> None:
    """`total += one @ other` in the dtype of `total`. On a GPU a narrow product is added up where it is made."""
    if total.is_cuda and one.dtype in (torch.bfloat16, torch.float16):
        torch.addmm(total, one, other, out_dtype=total.dtype, out=total)
    else:
        total += one @ other


def _chunk(
    logits: torch.Tensor, labels: torch.Tensor, begin: int, ignore_index: int, axis: Axis
) -> tuple[torch.Tensor, torch.Tensor]:
    """The chunk's summed loss, and its slope by this rank's logits `[tokens, local vocabulary]`."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    high = axis.maximum(logits.amax(-1)).to(wide)
    local = labels - begin
    mine = (local >= 0) & (local < logits.shape[-1])
    index = local.clamp(0, logits.shape[-1] - 1).unsqueeze(-1)
    right = torch.where(mine, logits.gather(-1, index).squeeze(-1), 0).to(wide)
    exponentials = (logits - high.unsqueeze(-1)).exp_()
    total, right = axis.sum(torch.stack([exponentials.sum(-1), right])).unbind(0)
    counted = labels != ignore_index
    loss = torch.where(counted, total.log() + high - right, 0).sum()
    slope = exponentials.mul_((counted / total).unsqueeze(-1))
    slope.scatter_add_(-1, index, -(mine & counted).to(slope.dtype).unsqueeze(-1))
    return loss, slope


class _Head(nn.Linear):
    """A Linear onto a rank's slice of the vocabulary, whose product waits for somebody to look at it."""

    layout: tuple[tuple[int, ...], Axis]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`[..., hidden]` to `[..., vocabulary]`, computed late in training and at once without gradients."""
        if not torch.is_grad_enabled():
            return gather_last(functional.linear(input, self.weight, self.bias), *self.layout)
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        return Logits(Parts(input, self.weight, self.bias, *self.layout, dtype))


def deferred(module: nn.Module, sizes: tuple[int, ...], axis: Axis) -> bool:
    """Make a head's logits wait, where it is a plain Linear. False where it is something else."""
    if type(module) is not nn.Linear:
        return False
    module.__class__ = _Head
    module.layout = (sizes, axis)  # type: ignore[assignment]
    return True
