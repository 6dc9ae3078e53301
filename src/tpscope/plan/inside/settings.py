"""The whole numbers that a region's modules read in their forward, and which of them a rank has to divide.

Model code says `view(batch, length, self.num_heads, self.head_dim)`. Which numbers count heads and which do not is not
known here: the ranks' slices are run with every choice, and the choice is right under which their outputs add up.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tpscope.engine.slices import divide, put, take
from tpscope.plan.inside.coupling import Stand
from tpscope.plan.inside.noise import MARGIN, Noise
from tpscope.plan.inside.touch import Trial
from tpscope.plan.inside.units import Division, Stuck

MOST_TRIES, MOST_SECONDS = 4000, 6.0


def reads(trial: Trial) -> dict[str, int]:
    """Every whole number above 1 that is read off a region's modules, or off their configs, in one forward pass."""
    watched = trial.copy()
    found: dict[str, int] = {}
    for name, module in list(watched.root.named_modules()):
        _watch(module, name, found)
        config = module.__dict__.get("config")
        if config is not None and not isinstance(config, (nn.Module, dict)):
            module.__dict__["config"] = copy.copy(config)
            _watch(module.__dict__["config"], f"{name}.config".strip("."), found)
    found.clear()
    with torch.no_grad():
        watched.outputs()
    return found


def _watch(thing: Any, name: str, found: dict[str, int]) -> None:
    cls = type(thing)

    def read(self: Any, key: str) -> Any:
        value = cls.__getattribute__(self, key)  # type: ignore[call-arg]
        if type(value) is int and value > 1 and not key.startswith("__"):
            found[f"{name}.{key}".strip(".")] = value
        return value

    thing.__class__ = type(cls.__name__, (cls,), {"__getattribute__": read, "__module__": cls.__module__})


class _Rank:
    """What one rank runs: a copy of the region on its slices, with settings that come and go."""

    def __init__(self, trial: Trial, division: Division, rank: int, ranks: int):
        self._own = trial.copy()
        for name, share in division.shares.items():
            tensor = trial.root.get_parameter(name) if _is_parameter(trial.root, name) else trial.root.get_buffer(name)
            if share.cut is not None:
                put(self._own.root, name, take(tensor.detach(), share.cut, rank, ranks))
            elif share.once and rank:
                put(self._own.root, name, torch.zeros_like(tensor))

        for module in self._own.root.modules():
            if isinstance(module, Stand):
                module.rank = rank

    def gathered(self) -> tuple[str, ...]:
        """The stand-ins that were given slices."""
        found = self._own.root.named_modules()
        return tuple(name for name, module in found if isinstance(module, Stand) and module.cut)

    def outputs(self, settings: dict[str, int]) -> list[torch.Tensor]:
        """What the region gives on its slices under these settings."""
        undo = divide(self._own.root, settings)
        try:
            return self._own.outputs()
        finally:
            for holder, attribute, value in undo:
                setattr(holder, attribute, value)


def _is_parameter(root: nn.Module, name: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    return leaf in root.get_submodule(owner)._parameters


@dataclass(frozen=True)
class Fit:
    """The settings under which the ranks' outputs add up to the whole one, the positions of those outputs, and the
    stand-ins (see coupling.py) that got slices."""

    settings: dict[str, int]
    outputs: tuple[int, ...]
    gathered: tuple[str, ...]


def fitting(trial: Trial, division: Division, ranks: int) -> Fit:
    """The first choice of settings that is right.

    Raises Stuck with what the best choice gave.
    """
    with torch.no_grad():
        whole = trial.outputs()
        tolerance = [_tolerance(trial, whole, position) for position in range(len(whole))]
        last = "no choice of settings was tried"
        first = _Rank(trial, division, 0, ranks)
        others = [_Rank(trial, division, rank, ranks) for rank in range(1, ranks)]
        begun = time.monotonic()
        for settings in _choices(trial, ranks):
            if time.monotonic() - begun > MOST_SECONDS:
                break
            try:
                parts = [first.outputs(settings)]
                if [part.shape for part in parts[0]][:1] != [whole[0].shape]:
                    last = f"a slice gives {tuple(parts[0][0].shape)} where the whole gives {tuple(whole[0].shape)}"
                    continue
                parts += [other.outputs(settings) for other in others]
            except Exception as error:  # noqa: BLE001, whatever model code raises on a slice says that the choice is wrong
                last = (
                    f"on a slice it raises {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                )
                continue
            summed = [i for i, out in enumerate(whole) if _adds_up(out, [part[i] for part in parts], tolerance[i])]
            if 0 in summed:
                return Fit(settings, tuple(summed), first.gathered())
            difference = (sum(part[0] for part in parts) - whole[0]).abs().max().item()
            last = f"the ranks' outputs add up to something else (largest difference {difference:.2g})"
    raise Stuck(last)


def _adds_up(whole: torch.Tensor, parts: list[torch.Tensor], tolerance: float) -> bool:
    if any(part.shape != whole.shape for part in parts):
        return False
    if all((part - whole).abs().max().item() <= tolerance for part in parts):
        return False  # every rank has the whole already
    return (torch.stack(parts).sum(0) - whole).abs().max().item() <= tolerance


def _tolerance(trial: Trial, whole: list[torch.Tensor], position: int) -> float:
    with Noise(5):
        moved = trial.copy().outputs()[position]
    ulp = torch.finfo(whole[position].dtype).eps * whole[position].abs().max().item()
    return MARGIN * max((moved - whole[position]).abs().max().item(), ulp)


def _choices(trial: Trial, ranks: int) -> Iterator[dict[str, int]]:
    """Divisors for the numbers read, those with fewest numbers divided first."""
    divisors = [d for d in range(ranks, 1, -1) if ranks % d == 0]
    options = {name: [d for d in divisors if value % d == 0] for name, value in reads(trial).items()}
    names = [name for name, found in options.items() if found]
    tried = 0
    for count in range(len(names) + 1):
        for chosen in itertools.combinations(names, count):
            for values in itertools.product(*(options[name] for name in chosen)):
                if tried == MOST_TRIES:
                    return
                tried += 1
                yield dict(zip(chosen, values, strict=True))
