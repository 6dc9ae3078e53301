"""The rows on decoder layers as they ran."""

from __future__ import annotations

from dataclasses import dataclass, field

from tpscope.language.measured.layer import Visit
from tpscope.report.experiments.rows import Measured


@dataclass(kw_only=True)
class Block(Measured):
    """One layer of one model. `unobserved` says why there are no visits, where it could not be seen to run."""

    model: str
    tp: int = 2
    sequence_parallel: bool = False
    layer: str = ""
    kind: str = ""
    visits: list[Visit] = field(default_factory=list)
    unobserved: str = ""
    row: str = "block"
