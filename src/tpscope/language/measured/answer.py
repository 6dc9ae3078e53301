"""The answer of an experiment that ran in a framework's own interpreter: what crosses the process border as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tpscope.language.answer import Failure, LogLine


@dataclass
class ExperimentAnswer:
    """`value` is what the experiment returned, in plain JSON values; None where `error` says why there is none.

    `load` is the load average over one minute before and after, and `cpus` how many processors this machine has.
    """

    framework: str
    value: Any = None
    error: Failure | None = None
    packages: dict[str, str] = field(default_factory=dict)
    shims: list[str] = field(default_factory=list)
    log: list[LogLine] = field(default_factory=list)
    load: tuple[float, float] = (0.0, 0.0)
    cpus: int = 0
    seconds: float = 0.0
