"""Batch, optimizer and learning rate of both sides, as both frameworks' own code builds them."""

from __future__ import annotations

from typing import Any

from tpscope.compare.join import canonical
from tpscope.language.measured.trained import Share, Trained
from tpscope.migrate.answers import Answers
from tpscope.migrate.result import Check, Standing

_CLOSE = 1e-6
_SAMPLED = 5
# What changes how an optimizer goes about it, not what it computes.
_SPEED = ("fused", "foreach", "capturable", "differentiable", "decoupled_weight_decay")


def compared(answers: list[Answers]) -> list[Check]:
    """Samples of a step, the optimizer with its arguments, decay and rate of each parameter, the rate at each step."""
    left, right = (one.trained for one in answers)
    if left is None or right is None:
        why = "; ".join(
            f"{one.side.target.id}: {one.error.kind}: {one.error.message}" for one in answers if one.error is not None
        )
        return [Check("optimizer and learning rate", Standing.UNCHECKED, why)]
    return [_samples(left, right), *_optimizer(left, right), _shares(left, right), _rates(left, right)]


def _samples(left: Trained, right: Trained) -> Check:
    same = left.samples == right.samples
    why = "" if same else "one optimizer step has other samples behind it"
    name = "samples per step, by both frameworks' code"
    return Check(name, Standing.OK if same else Standing.FAILED, why, left.samples, right.samples)


def _optimizer(left: Trained, right: Trained) -> list[Check]:
    before, after = (_named(side.optimizer) for side in (left, right))
    keys = [key for key in left.arguments if key in right.arguments]
    unlike = [key for key in keys if not _same(left.arguments[key], right.arguments[key])]
    meant = [key for key in unlike if key not in _SPEED]
    alone = {
        side: [key for key in mine.arguments if key not in others.arguments and key not in _SPEED]
        for side, mine, others in (("the input", left, right), ("the output", right, left))
    }
    words = [f"{key} {_shown(left.arguments[key])} | {_shown(right.arguments[key])}" for key in unlike]
    words += [f"only {side} has {', '.join(keys)}" for side, keys in alone.items() if keys]
    if left.optimizer != right.optimizer:
        words.insert(0, "another class")
    same = left.optimizer == right.optimizer and not meant and not any(alone.values())
    why = "; ".join(words) or "the same class and arguments"
    if same and unlike:
        why = f"the same class and arguments but for its kernels: {why}"
    return [Check("optimizer", Standing.OK if same else Standing.TOLD, why, before, after)]


def _named(optimizer: str) -> str:
    """A class by its name, with its package where that is not torch."""
    package, name = optimizer.partition(".")[0], optimizer.rpartition(".")[2]
    return name if package == "torch" else f"{package} {name}"


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(_same(*pair) for pair in zip(one, two, strict=True))
    if isinstance(one, float) or isinstance(two, float):
        return one is not None and two is not None and abs(one - two) <= _CLOSE * max(abs(one), abs(two))
    return bool(one) == bool(two) if one in (None, False) or two in (None, False) else bool(one == two)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shares(left: Trained, right: Trained) -> Check:
    """Weight decay, and rates of groups, kind by kind."""
    ours, theirs = (_by_kind(side.shares) for side in (left, right))
    names = [name for name in ours if name in theirs]
    unlike = [name for name in names if ours[name] != theirs[name]]
    name = "weight decay and rate of each parameter"
    if not unlike:
        decays = sorted({share.decay for shares in ours.values() for share in shares})
        words = " or ".join(f"{decay:g}" for decay in decays)
        return Check(name, Standing.OK, f"the same for {len(names)} kinds of parameters: decay {words}")
    words = ", ".join(f"{name} {_share(ours[name])} | {_share(theirs[name])}" for name in unlike[:4])
    more = f" and {len(unlike) - 4} more" if len(unlike) > 4 else ""
    return Check(name, Standing.TOLD, f"differs for {len(unlike)} of {len(names)} kinds: {words}{more}")


def _by_kind(shares: dict[str, Share]) -> dict[str, list[Share]]:
    found: dict[str, list[Share]] = {}
    for name, share in shares.items():
        kinds = found.setdefault(canonical(name), [])
        if share not in kinds:
            kinds.append(share)
    return found


def _share(shares: list[Share]) -> str:
    return "/".join(
        f"{share.decay:g}" + (f" at {share.rate:g} x the rate" if share.rate != 1 else "") for share in shares
    )


def _rates(left: Trained, right: Trained) -> Check:
    steps = min(len(left.rates), len(right.rates))
    peak = max(left.rates) or 1.0
    worst = max(range(steps), key=lambda step: abs(left.rates[step] - right.rates[step]))
    apart = abs(left.rates[worst] - right.rates[worst]) / peak
    places = sorted({round(index * (steps - 1) / (_SAMPLED - 1)) for index in range(_SAMPLED)})
    before, after = (", ".join(f"{side.rates[place]:.3g}" for place in places) for side in (left, right))
    at = ", ".join(str(place + 1) for place in places)
    if apart <= _CLOSE:
        why = f"the same at each of {steps} steps (shown: steps {at})"
        return Check("learning rate", Standing.OK, why, before, after)
    why = f"furthest apart at step {worst + 1} of {steps}: {100 * apart:.2g} % of the peak (shown: steps {at})"
    return Check("learning rate", Standing.TOLD, why, before, after)
