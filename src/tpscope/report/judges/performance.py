"""Speed. Question Q4: what are the real performance differences on large clusters? Measured on two GPUs; predicted
beyond. And which of the two versions of a statement's time is the faster one."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from tpscope.price.matrix import Cell
from tpscope.report.experiments.bench_rows import Benched
from tpscope.report.experiments.price_rows import Price
from tpscope.report.judges.view import Found, Reply, View, unasked
from tpscope.report.sections.prices import error, pairs
from tpscope.report.text import not_yet, together

CAVEAT = "measured on two GPUs of one host only; everything beyond them is predicted"


def clusters(view: View) -> Reply:
    """How many times the one framework's time the other's is: as measured, and as predicted at every size."""
    timed = _timed(view)
    if not timed:
        return Reply("", not_yet("bench"))
    ratios = [nemo[0].milliseconds[0] / axolotl[0].milliseconds[0] for nemo, axolotl in timed]
    times = f"{view.nemo} takes {_range(ratios)} times {view.axolotl}'s forward and backward"
    verdict = f"{times} in {len(ratios)} cases, {CAVEAT}"
    words = [together(_said(*nemo, *axolotl) for nemo, axolotl in timed), *_predicted(view), CAVEAT]
    return Reply(verdict, "; ".join(words))


def faster(view: View) -> Found:
    """Does NeMo take less time than Axolotl for the same forward, loss and backward, each by its defaults? As measured;
    where nobody measured these versions as predicted for a calibrated machine, if by more than predictions are off."""
    timed = [nemo[0].milliseconds[0] / axolotl[0].milliseconds[0] for nemo, axolotl in _timed(view)]
    known = "measured on two GPUs" if timed else "predicted, on a calibrated machine"
    ratios = timed or [ratio for (_, standing), ratio in _priced(view) if standing == "calibrated"]
    if not ratios:
        return unasked("bench", "whether it is faster")
    words = f"{known}, {view.nemo} takes {_range(ratios)} times {view.axolotl}'s forward, loss and backward"
    words += f", {len(ratios)} cases"
    off = max((abs(error(case, cell)) for case, cell in pairs(view.study)), default=0.0)
    if not timed and abs(median(ratios) - 1) <= off:
        return unasked("bench", f"{words}; predictions are up to {off:.0%} off, so which is faster")
    return Found(median(ratios) < 1, words)


def _timed(view: View) -> list[tuple[tuple[Benched, Cell], tuple[Benched, Cell]]]:
    """The same case as both versions were measured at it, each with its price."""
    found = pairs(view.study)
    return [
        (nemo, axolotl)
        for nemo in found
        for axolotl in found
        if (nemo[0].framework, axolotl[0].framework) == (view.nemo, view.axolotl) and _of(nemo[0]) == _of(axolotl[0])
    ]


def _priced(view: View) -> Iterable[tuple[tuple[str, str], float]]:
    """Machine and its standing, and the ratio of both versions there, case by case."""
    cells = {
        (cell.hardware, cell.tp, cell.model, cell.sequence, cell.framework): cell
        for cell in (row.cell for row in view.study.measured(Price))
        if not cell.said
    }
    for (machine, tp, model, sequence, framework), cell in cells.items():
        other = cells.get((machine, tp, model, sequence, view.axolotl))
        if framework == view.nemo and other is not None:
            yield (machine, cell.standing), cell.pass_ms / other.pass_ms


def _of(case: Benched) -> tuple[str, int, int]:
    return case.model, case.tp, case.sequence


def _said(nemo: Benched, price: Cell, axolotl: Benched, other: Cell) -> str:
    each = ", ".join(
        f"{case.framework} measured {case.milliseconds[0]:.0f} ms, "
        f"predicted {cell.pass_ms:.0f} ({error(case, cell):+.0%})"
        for case, cell in ((nemo, price), (axolotl, other))
    )
    return f"{nemo.model} tp={nemo.tp} sequence {nemo.sequence}: {each}"


def _predicted(view: View) -> list[str]:
    """Ratios of predicted steps by size and machine, over the models that both price."""
    cells = {
        (cell.hardware, cell.tp, cell.model, cell.sequence, cell.framework): cell
        for cell in (row.cell for row in view.study.measured(Price))
        if not cell.said
    }
    ratios: dict[tuple[str, int], list[float]] = {}
    for (hardware, tp, model, sequence, framework), cell in cells.items():
        other = cells.get((hardware, tp, model, sequence, view.axolotl))
        if framework == view.nemo and other is not None:
            ratios.setdefault((hardware, tp), []).append(cell.step_ms / other.step_ms)
    standing = {cell.hardware: cell.standing for cell in cells.values()}
    return [
        f"predicted for {hardware} at tp={tp} ({standing[hardware]}): {_range(found)} times over {len(found)} cases"
        for (hardware, tp), found in ratios.items()
    ]


def _range(ratios: Iterable[float]) -> str:
    found = list(ratios)
    return f"{min(found):.2f} to {max(found):.2f} (median {median(found):.2f})"
