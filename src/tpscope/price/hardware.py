"""Machines by name: what their data sheets say, and what was measured on them where somebody measured."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tpscope.errors import UserError
from tpscope.language.layout import Layout
from tpscope.price.curves import ARITHMETIC, COLLECTIVES, Points
from tpscope.price.result import Standing


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reached(_Strict):
    """The part of peak arithmetic that products reach, by their FLOPs, and attention."""

    small: float
    medium: float
    large: float
    attention: float
    attention_backward: float


class Compute(_Strict):
    """Dense matrix products, FLOP/s by dtype, and the part of it that is reached."""

    bfloat16: float
    float32: float
    reached: Reached


class Bandwidth(_Strict):
    """Bytes a second that one GPU moves, the part of it that is reached, and seconds before the first byte."""

    bytes_per_second: float
    reached: float
    latency: float = 0.0


class Dispatch(_Strict):
    """Seconds of the CPU for an operator that launches a kernel, for one that does not, for one on DTensor, for the
    call of a module, for a collective besides its operator, and for a compiled function on DTensors in each direction.
    `backward`: how much of an operator's cost is left in the backward, which autograd runs without Python, and in the
    optimizer's step, which autograd does not record. `gap`: seconds of the GPU between two kernels."""

    operator: float
    view: float
    dtensor: float
    module: float
    gap: float
    collective: float = 0.0
    compiled: float = 0.0
    backward: float = 1.0


class Sustained(_Strict):
    """How many times longer products and kernels bound by memory take inside of a step than they take alone."""

    arithmetic: float = 1.0
    traffic: float = 1.0


class Calibrated(_Strict):
    """What was measured: constants by their dotted names, curves of seconds by size, the rows that they come from, and
    the settings of those rows, beyond which a price is extrapolated."""

    date: str
    rows: tuple[str, ...]
    torch: str
    tp: tuple[int, ...]
    tokens: tuple[int, int]
    constants: dict[str, float]
    curves: dict[str, Points] = {}


class Machine(_Strict):
    """A GPU and how it reaches its neighbours. `domain`: GPUs that `link` joins; beyond it, `network`. `like`: the
    calibrated machine that says what this one's file does not; `borrowed` are its curves, at this machine's peaks."""

    title: str
    source: tuple[str, ...]
    memory_bytes: int
    reserved_bytes: int
    domain: int
    compute: Compute
    memory: Bandwidth
    link: Bandwidth
    network: Bandwidth
    dispatch: Dispatch
    sustained: Sustained = Sustained()
    calibrated: Calibrated | None = None
    like: str = ""
    borrowed: dict[str, Points] = {}

    def standing(self, layout: Layout, tokens: int) -> Standing:
        """How far a price on this machine can be trusted."""
        if self.calibrated is None:
            return "uncalibrated"
        low, high = self.calibrated.tokens
        inside = layout.world == layout.tp and layout.tp in self.calibrated.tp and low <= tokens <= high
        return "calibrated" if inside else "extrapolated"

    def curve(self, name: str) -> Points:
        """Seconds by size as measured here, or on the machine that this one is like; nothing where nobody measured."""
        return self.calibrated.curves.get(name, ()) if self.calibrated else self.borrowed.get(name, ())

    @property
    def assumed(self) -> list[str]:
        """What every price on this machine takes for granted."""
        if self.calibrated is not None or not self.like:
            return []
        return [
            f"nothing was measured on {self.title}: the CPU costs what it costs on the calibrated {self.like}, and "
            "kernels and collectives reach the part of this machine's peaks that they reach there at the same size"
        ]

    def with_curves(self, curves: dict[str, Points]) -> Machine:
        """The machine with curves that are about to be written into its file."""
        return self.model_copy(update={"calibrated": Calibrated(curves=curves, **_NOTHING)})

    def with_constants(self, constants: dict[str, float]) -> Machine:
        """The machine with some constants replaced, by dotted names such as `compute.reached.large`."""
        tree = self.model_dump()
        for name, value in constants.items():
            *path, leaf = name.split(".")
            at: Any = tree
            for step in path:
                at = at[step]
            if leaf not in at:
                raise KeyError(name)
            at[leaf] = value
        return Machine.model_validate(tree)


_TABLES = ("compute", "memory", "link", "network", "dispatch", "sustained")
_NOTHING: dict[str, Any] = {"date": "", "rows": (), "torch": "", "tp": (), "tokens": (0, 0), "constants": {}}


@cache
def names() -> tuple[str, ...]:
    """The machines that come with tpscope."""
    folder = resources.files("tpscope.price") / "machines"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def machine(name: str) -> Machine:
    """A machine by its name, or by the path of a TOML file. Raises UserError with the closest names or the fields."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"--hardware {name}: there is no such file; name one, or one of {', '.join(names())}")
        return parsed(name, path.read_text(encoding="utf-8"))
    if name not in names():
        close = get_close_matches(name.lower(), names(), 3, 0.4) or names()
        fields = ", ".join(name for name, field in Machine.model_fields.items() if field.is_required())
        raise UserError(
            f"--hardware {name}: no such machine; did you mean {', '.join(close)}? A TOML file of your own has the "
            f"fields {fields}, as src/tpscope/price/machines/h200.toml shows"
        )
    return parsed(name, (resources.files("tpscope.price") / "machines" / f"{name}.toml").read_text(encoding="utf-8"))


def parsed(name: str, text: str) -> Machine:
    """A machine from the text of its file, with what was measured in place of what was guessed."""
    try:
        found = Machine.model_validate(_filled(name, tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"--hardware {name}: not TOML ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"--hardware {name}: {field}: {first['msg'].lower()}") from error
    if found.like:
        found = found.model_copy(update={"borrowed": _scaled(machine(found.like), found)})
    try:
        return found.with_constants(found.calibrated.constants) if found.calibrated else found
    except KeyError as error:
        raise UserError(f"--hardware {name}: calibrated.constants: {error} is no constant of a machine") from error


def _filled(name: str, tree: dict[str, Any]) -> dict[str, Any]:
    """The file of a machine that is like a calibrated one, with that one's word for what it does not say itself."""
    if not tree.get("like"):
        return tree
    if tree["like"] not in names() or (other := machine(tree["like"])).calibrated is None:
        raise UserError(f"--hardware {name}: like = {tree['like']!r} names no calibrated machine; h200 is one")
    told = _under({key: value for key, value in tree.items() if key in _TABLES}, other.model_dump(include=set(_TABLES)))
    return {**tree, **told}


def _under(given: Any, told: dict[str, Any]) -> dict[str, Any]:
    """One table with another under it: what the first does not say, the second does."""
    found = dict(told)
    for key, value in given.items():
        found[key] = _under(value, told[key]) if isinstance(value, dict) and isinstance(told.get(key), dict) else value
    return found


def _scaled(other: Machine, here: Machine) -> dict[str, Points]:
    """The curves of a measured machine where peaks are others: the part of a peak that is reached at a size stays.

    What a collective takes before its first byte is no part of a peak: that stays as it is.
    """
    arithmetic = other.compute.bfloat16 / here.compute.bfloat16
    memory = other.memory.bytes_per_second / here.memory.bytes_per_second
    link = other.link.bytes_per_second / here.link.bytes_per_second
    found: dict[str, Points] = {}
    for name, points in (other.calibrated.curves if other.calibrated else {}).items():
        start = points[0][1] if name in COLLECTIVES else 0.0
        times = link if name in COLLECTIVES else arithmetic if name in ARITHMETIC else memory
        found[name] = tuple((size, start + (seconds - start) * times) for size, seconds in points)
    return found
