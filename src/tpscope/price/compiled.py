"""What a framework compiles on a GPU without being asked, and a trace of fake tensors shows operator by operator.

NeMo's RMSNorm in single precision (nemo_automodel@0.7.0 components/models/common/utils.py:_float32_rms_norm_fwd) is a
function under torch.compile around an operator of its own. That operator runs as it is written: a cast, the norm, a
cast. Its backward is traced into the same compiled function and becomes one kernel, where a trace sees some fifteen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tpscope.language.measured.price import Operation

NORM = "nemo_automodel::float32_rms_norm"
_SINGLE = "float32"


def as_compiled(operations: Iterable[Operation]) -> list[Operation]:
    """The operations of a step as the GPU runs them. Nothing changes where nothing is compiled by default."""
    given = list(operations)
    norms = [item for item in given if item.name == NORM and item.phase == "forward"]
    modules = {item.module for item in norms}
    kept = [item for item in given if not _inside(item, modules)]
    return [*kept, *(piece for item in norms for piece in _pieces(item))]


def calls(operations: Iterable[Operation]) -> int:
    """How many times a step enters a function that is compiled by default."""
    return sum(item.count for item in operations if item.name == NORM and item.phase == "forward")


def _inside(item: Operation, modules: set[str]) -> bool:
    """Whether an operation is in a compiled function: the norm itself, and the single precision of its backward."""
    if item.module not in modules:
        return False
    if item.phase == "forward":
        return item.name == NORM
    return item.phase == "backward" and (item.dtype == _SINGLE or item.name == "_to_copy")


def _pieces(item: Operation) -> list[Operation]:
    half = item.written
    cast = replace(item, name="_to_copy", read=half, written=2 * half)
    norm = replace(item, name="rms_norm", dtype=_SINGLE, read=2 * half, written=2 * half)
    back = replace(item, name="rms_norm_backward", phase="backward", read=2 * half, written=half)
    return [cast, norm, replace(cast, read=2 * half, written=half), back]
