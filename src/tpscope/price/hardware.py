"""Machines by name: what their data sheets say, and what was measured on them where somebody measured."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tpscope.errors import UserError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Compute(_Strict):
    """Dense matrix products, FLOP/s by dtype, and the part of it that large products reach."""

    bfloat16: float
    float32: float
    reached: float


class Bandwidth(_Strict):
    """Bytes a second that one GPU moves, the part of it that is reached, and seconds before the first byte."""

    bytes_per_second: float
    reached: float
    latency: float = 0.0


class Dispatch(_Strict):
    """Seconds of the CPU for an operator, for one on DTensor, and seconds between two kernels of the GPU."""

    operator: float
    dtensor: float
    kernel: float


class Machine(_Strict):
    """A GPU and how it reaches its neighbours. `domain`: GPUs that `link` joins; beyond it, `network`."""

    title: str
    status: Literal["calibrated", "uncalibrated"]
    source: tuple[str, ...]
    memory_bytes: int
    reserved_bytes: int
    domain: int
    compute: Compute
    memory: Bandwidth
    link: Bandwidth
    network: Bandwidth
    dispatch: Dispatch


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
            raise UserError(f"--hardware {name}: there is no such file")
        return _parsed(name, path.read_text(encoding="utf-8"))
    if name not in names():
        close = get_close_matches(name.lower(), names(), 3, 0.4) or names()
        raise UserError(
            f"--hardware {name}: no such machine; did you mean {', '.join(close)}? A TOML file of your own has the "
            f"fields {', '.join(Machine.model_fields)}, as src/tpscope/price/machines/h200.toml shows"
        )
    return _parsed(name, (resources.files("tpscope.price") / "machines" / f"{name}.toml").read_text(encoding="utf-8"))


def _parsed(name: str, text: str) -> Machine:
    try:
        return Machine.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"--hardware {name}: not TOML ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"--hardware {name}: {field}: {first['msg'].lower()}") from error
