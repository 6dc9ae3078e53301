"""What came of a question that was put to a framework. Never a bare bool."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """Of a proof: is the sharded model still the same model?"""

    EQUAL = "equal"
    DIFFERENT = "different"
    CRASHED = "crashed"
    REFUSED = "refused"
    UNSUPPORTED = "unsupported"
    INCONCLUSIVE = "inconclusive"


class Status(StrEnum):
    """Of one column of a comparison."""

    OK = "ok"
    REFUSED = "refused"
    UNSUPPORTED = "unsupported"
    CRASHED = "crashed"


class Reduction(StrEnum):
    """What is done over the tp axis to the gradient of a parameter before the optimizer sees it."""

    NONE = "none"
    SUM = "sum"
    MEAN = "mean"
    SHARDED = "sharded"
    UNOBSERVED = "unobserved"


class Severity(StrEnum):
    """How much a difference between two columns matters, worst first."""

    WRONG = "wrong"
    BLOCKS = "blocks"
    IGNORED = "ignored"
    COST = "cost"
    NOTE = "note"
