"""Words and colours that several renderings of proofs share."""

from __future__ import annotations

from tpscope.language.verdict import Verdict

NOISE = 1e-12
COLOURS = {
    Verdict.EQUAL: "green",
    Verdict.DIFFERENT: "bold red",
    Verdict.CRASHED: "red",
    Verdict.REFUSED: "yellow",
    Verdict.UNSUPPORTED: "yellow",
    Verdict.INCONCLUSIVE: "magenta",
}


def number(value: float | None) -> str:
    """A measured error at the digits that mean anything; what is below float64's own noise is not spelled out."""
    if value is None:
        return "none"
    if value < NOISE:
        return "0" if value == 0 else f"<{NOISE:g}"
    return f"{value:.3g}" if value >= 0.1 else f"{value:.1g}"
