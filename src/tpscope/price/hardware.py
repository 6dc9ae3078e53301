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
from tpscope.price.curves import Points
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
    """A GPU and how it reaches its neighbours. `domain`: GPUs that `link` joins; beyond it, `network`."""

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

    def standing(self, layout: Layout, tokens: int) -> Standing:
        """How far a price on this machine can be trusted."""
        if self.calibrated is None:
            return "uncalibrated"
        low, high = self.calibrated.tokens
        inside = layout.world == layout.tp and layout.tp in self.calibrated.tp and low <= tokens <= high
        return "calibrated" if inside else "extrapolated"

    def curve(self, name: str) -> Points:
        """Measured seconds by size; nothing where nobody measured them."""
        return self.calibrated.curves.get(name, ()) if self.calibrated else ()

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
        found = Machine.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"--hardware {name}: not TOML ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"--hardware {name}: {field}: {first['msg'].lower()}") from error
    try:
        return found.with_constants(found.calibrated.constants) if found.calibrated else found
    except KeyError as error:
        raise UserError(f"--hardware {name}: calibrated.constants: {error} is no constant of a machine") from error
