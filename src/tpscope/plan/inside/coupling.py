"""Modules inside a region that couple all slices (a norm over all heads), and stand-ins that do not.

A stand-in multiplies by what the module did to its recorded input, element by element. What falls into groups with
stand-ins can be computed on slices if the real modules run whole: their input gathered, their output split.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tpscope.plan.inside.touch import Trial


class Stand(nn.Module):
    """Multiplies a slice of the last dimension by that slice of fixed numbers. `cut`: it was given less than all."""

    def __init__(self, ratio: torch.Tensor):
        super().__init__()
        self._kept = (ratio,)  # no buffer: it is no tensor of the region
        self.rank, self.cut = 0, False

    def forward(self, given: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        """The rank's slice of the numbers times the input."""
        (ratio,) = self._kept
        length = given.shape[-1]
        self.cut = self.cut or length != ratio.shape[-1]
        return given * ratio.narrow(-1, self.rank * length if self.cut else 0, length)


@dataclass
class _Seen:
    given: torch.Tensor
    output: torch.Tensor
    rest: tuple[Any, ...]
    named: dict[str, Any]


def eased(trial: Trial) -> Trial | None:
    """The trial with a stand-in for every module that couples; None if there is none."""
    own = trial.copy()
    seen: dict[str, list[_Seen]] = {}
    hooks = []
    for name, module in own.modules():
        # A matrix is what is to be cut.
        if name and all(p.dim() < 2 for p in module.parameters()):
            hooks.append(module.register_forward_hook(_keeper(name, seen), with_kwargs=True))
    with torch.no_grad():
        own.outputs()
    for hook in hooks:
        hook.remove()
    # What a matrix of the region gives or takes, whole: not the features of one head.
    widths = {size for tensor in own.tensors().values() if tensor.dim() > 1 for size in tensor.shape}
    standing = {
        name: calls[0] for name, calls in seen.items()
        if len(calls) == 1 and name != own.exit and calls[0].given.shape[-1] in widths
        and _couples(own.root.get_submodule(name), calls[0])
    }  # fmt: skip
    outer = [name for name in standing if not any(name.startswith(f"{other}.") for other in standing)]
    for name in outer:
        call = standing[name]
        ratio = call.output / torch.where(call.given == 0, torch.ones_like(call.given), call.given)
        own.root.set_submodule(name, Stand(ratio))
    return own if outer and _runs(own) else None


def _runs(trial: Trial) -> bool:
    """False where the code reads more of a module than its result (its weight), which a stand-in lacks."""
    try:
        with torch.no_grad():
            trial.outputs()
    except AttributeError:
        return False
    return True


def _keeper(name: str, seen: dict[str, list[_Seen]]) -> Any:
    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        same = bool(args) and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor)
        if same and args[0].is_floating_point() and args[0].shape == output.shape:
            seen.setdefault(name, []).append(_Seen(args[0].clone(), output.clone(), args[1:], kwargs))

    return keep


def _couples(module: nn.Module, call: _Seen) -> bool:
    """True if one feature of the input moves others of the output."""
    moved = call.given.clone()
    moved[..., 0] += 1.0
    with torch.no_grad():
        after = copy.deepcopy(module)(moved, *call.rest, **call.named)
    return bool(((after - call.output)[..., 1:] != 0).any())
