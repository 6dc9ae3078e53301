"""Two runs of a scene laid side by side: the numbers, where they are placed, which parameters train."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from tpscope.frameworks.inside.experiments.style_cases import Scene
from tpscope.frameworks.inside.experiments.style_ranks import Held, Left, part
from tpscope.language.measured.port import Outcome

WHOLE = "Replicate()"


@dataclass
class Found:
    """How a run compares: what differs first, the largest relative error, and what is equal and yet not the same."""

    outcome: Outcome
    said: str = ""
    error: float | None = None
    notes: list[str] = field(default_factory=list)


def raised(lefts: list[Left]) -> str:
    """What a run raised, "" if it came to its end."""
    return next((left.raised for left in lefts if left.raised), "")


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the largest number of `other`; infinite for other shapes and no numbers."""
    if one.shape != other.shape or not torch.isfinite(one).all():
        return float("inf")
    apart, size = (one - other).abs().max().item(), other.abs().max().item()
    return 0.0 if apart == 0 else apart / size if size else float("inf")


def against_whole(own: list[Left], reference: dict[str, Held], scene: Scene, limit: float) -> Found:
    """A sharded run against the unsharded module: outputs, gradients of inputs and of parameters."""
    if said := raised(own):
        return Found(Outcome.RAISED, said)
    errors, told = [], []
    notes: list[str] = []
    for rank, left in enumerate(own):
        for name, right in reference.items():
            if name.startswith("parameter") or name.endswith("of the module"):
                continue
            wanted = _share(name, right.local, scene, rank, len(own))
            held = left.tensors.get(name)
            if held and name.startswith("output") and held.placement not in ("", repr(scene.gives)):
                notes.append(f"it calls its output {held.placement}, of which the ranks hold {scene.gives!r}")
            mine = None if held is None else held.local if held.whole is None else held.whole
            errors.append(float("inf") if mine is None else error(mine, wanted))
            if not errors[-1] <= limit:
                told.append(_far(name, mine, wanted, errors[-1], rank, "the unsharded module"))
    outcome = Outcome.DIFFERENT if told else Outcome.EQUAL
    return Found(outcome, told[0] if told else "", _worst(errors), list(dict.fromkeys(notes)))


def _share(name: str, whole: torch.Tensor, scene: Scene, rank: int, ranks: int) -> torch.Tensor:
    """What a rank should have of one tensor of the unsharded module. Gradients of parameters are compared whole."""
    if name.startswith("output"):
        return part(whole, scene.gives, rank, ranks)
    if name.startswith("gradient of input"):
        return part(whole, scene.given[int(name.rpartition(" ")[2])], rank, ranks)
    return whole


def beside(own: list[Left], other: list[Left], limit: float) -> Found:
    """A counterpart's run beside that of the style itself, rank by rank. The style's must have come to its end."""
    if said := raised(other):
        return Found(Outcome.RAISED, said)
    errors: list[float] = []
    told: list[str] = []
    notes: list[str] = []
    for rank, (mine, theirs) in enumerate(zip(own, other, strict=True)):
        for name, held in mine.tensors.items():
            found = theirs.tensors.get(name)
            if found is None:
                told.append(f"there is no {name}")
                continue
            apart, why = _apart(name, held, found, rank, limit)
            errors.append(apart)
            told += why
            notes += _notes(name, held, found)
        told += [f"there is a {name}" for name in theirs.tensors if name not in mine.tensors]
    outcome = Outcome.DIFFERENT if told else Outcome.EQUAL
    return Found(outcome, told[0] if told else "", _worst(errors), list(dict.fromkeys(notes)))


def _apart(name: str, own: Held, other: Held, rank: int, limit: float) -> tuple[float, list[str]]:
    """How far two tensors are apart, and what is wrong with that."""
    gradient = own.whole is not None and name.startswith("gradient of ")
    first, second = (own.whole, other.whole) if gradient else (own.local, other.local)
    assert first is not None
    assert second is not None
    apart = error(second, first)
    if name.startswith("output") and own.placement != other.placement:
        return apart, [f"{name} is {_kind(other)} where the style gives {_kind(own)}"]
    if own.trains != other.trains:
        return apart, [f"{name} {'trains' if other.trains else 'is frozen'} and should not be so"]
    if name.startswith("parameter") and (own.placement or WHOLE) != (other.placement or WHOLE):
        return apart, [f"{name} is {_kind(other)} where the style has {_kind(own)}"]
    return apart, [] if apart <= limit else [_far(name, second, first, apart, rank, "the style's own")]


def _notes(name: str, own: Held, other: Held) -> list[str]:
    """What is equal in numbers and yet not the same to the code around it."""
    if name.startswith("parameter") and bool(own.placement) != bool(other.placement):
        return [f"its parameters are {_sort(other)}s, those of the style {_sort(own)}s"]
    if name.startswith("gradient") and own.pending != other.pending:
        late, done = ("it", "the style") if other.pending else ("the style", "it")
        return [f"{late} leaves a gradient as a sum still to be made (Partial), {done} has it made"]
    return []


def _kind(held: Held) -> str:
    return held.placement or "a plain tensor"


def _sort(held: Held) -> str:
    return "DTensor" if held.placement else "plain tensor"


def _far(name: str, one: torch.Tensor | None, other: torch.Tensor, apart: float, rank: int, what: str) -> str:
    if one is None:
        return f"{name} is missing on rank {rank}"
    if one.shape != other.shape:
        return f"{name} is {list(one.shape)} on rank {rank}, {what} is {list(other.shape)}"
    return f"{name} is {apart:.2g} off {what} on rank {rank}"


def _worst(errors: list[float]) -> float | None:
    finite = [item for item in errors if item != float("inf")]
    return float(f"{max(finite):.2g}") if finite else None
