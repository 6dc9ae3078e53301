"""The performance prediction matrix of section 11: time, memory and traffic of a step, and what of it was measured."""

from __future__ import annotations

from statistics import median, mode

from tpscope.price.matrix import Cell
from tpscope.report.experiments.bench_rows import Benched
from tpscope.report.experiments.price_rows import Price
from tpscope.report.facts import Study
from tpscope.report.text import ABSENT, code, listed, plotted, table

TITLE = "### Performance prediction matrix"
_GIB, _GB = 2**30, 1e9
_PARTS = ("compute", "memory-bound", "exposed communication")
_MEMORY = ("weights", "gradients", "optimizer", "activations", "logits and loss")


def section(study: Study) -> list[str]:
    """The matrix, its parts, memory, traffic, where there is no price, and measured beside predicted; nothing without
    rows."""
    rows = study.measured(Price)
    if not rows:
        return []
    wide = _ordered(study, [row.cell for row in rows if not _only_measured(row.cell, rows)])
    machines = list(dict.fromkeys(cell.hardware for cell in wide))
    first = wide[0]
    standings = listed(f"{cell.hardware}: {cell.standing}" for cell in wide if cell.standing)
    lines = [TITLE, ""]
    lines += [
        "Each framework's own model, sharding, default loss and AdamW ran one step at full size on fake tensors; a "
        f"machine file turns kernels, collectives and bytes into milliseconds ({standings}). Batch {first.batch}, "
        f"sequence {first.sequence}, bf16, eager, no activation checkpointing. Uncalibrated or extrapolated "
        "milliseconds compare columns and are not to be quoted; bytes do not depend on the machine. The CPU's costs "
        f"are those of the host on which a machine was measured{_unmeasured(wide)}", "",
    ]  # fmt: skip
    there = [cell for cell in wide if not cell.said]
    lines += table(
        "Milliseconds of a step, whether it fits on a GPU, tokens per second and GPU, by machine.",
        ["model", "tp", "framework", *(f"{name}: {what}" for name in machines for what in ("ms", "fits", "tokens/s"))],
        [
            [code(model), str(tp), framework, *(word for name in machines for word in _on(there, (*key, name)))]
            for key in dict.fromkeys((cell.model, cell.tp, cell.framework) for cell in there)
            for model, tp, framework in [key]
        ],
    )
    here = [cell for cell in there if cell.hardware == machines[0]]
    lines += plotted("stacked")
    lines += table(
        f"Parts of the step time on {machines[0]}, in milliseconds: kernels with matrix products, all others, "
        "collectives that nothing hides, and the time in which the GPU waits for the CPU.",
        ["model", "case", *_PARTS, "waiting for the CPU"],
        [[code(cell.model), _case(cell), *(f"{value:.0f}" for value in _times(cell))] for cell in here],
    )
    lines += plotted("stacked")
    lines += table(
        "Memory of one rank at the peak of a step by what it is for, in GiB.",
        ["model", "case", *_MEMORY, "other"],
        [[code(cell.model), _case(cell), *(f"{value / _GIB:.1f}" for value in _held(cell))] for cell in here],
    )
    kinds = list(dict.fromkeys(kind for cell in here for kind in cell.sent_bytes))
    lines += plotted("stacked")
    lines += table(
        "What one rank sends in a step by collective, in GB (a ring: an all-reduce sends twice what a gather does).",
        ["model", "case", *kinds],
        [
            [code(cell.model), _case(cell), *(f"{cell.sent_bytes.get(kind, 0) / _GB:.1f}" for kind in kinds)]
            for cell in here
        ],
    )
    without = {(cell.model, cell.tp, cell.framework): cell for cell in wide if cell.said}
    if without:
        lines += table(
            "Where there is no price: what the framework raised.",
            ["model", "tp", "framework", "answer", "its words"],
            [
                [code(model), str(tp), framework, f"**{cell.status}**", code(cell.said)]
                for (model, tp, framework), cell in without.items()
            ],
        )
    return lines + measured(study)


def measured(study: Study) -> list[str]:
    """Forward, loss and backward as they were measured on GPUs, beside the prediction."""
    found = pairs(study)
    if not found:
        return []
    devices = listed(str(case.made.hardware.get("device")) for case, _ in found)
    errors = [abs(error(case, cell)) for case, cell in found]
    return table(
        f"Forward, loss and backward, measured on {devices} ({len(found)} cases, eager, the framework's default loss) "
        f"and predicted: the error is {median(errors):.0%} in the median and {max(errors):.0%} at the worst. Nothing "
        "larger than these two GPUs was measured.",
        ["model", "tp", "sequence", "framework", "timed", "median ms", "lowest to highest", "predicted ms", "error"],
        [
            [
                code(case.model), str(case.tp), str(case.sequence), case.framework, case.ran,
                f"{case.milliseconds[0]:.0f}", f"{case.milliseconds[1]:.0f} to {case.milliseconds[2]:.0f}",
                f"{cell.pass_ms:.0f} ({cell.standing})", f"{error(case, cell):+.0%}",
            ]
            for case, cell in found
        ],
    )  # fmt: skip


def pairs(study: Study) -> list[tuple[Benched, Cell]]:
    """Measured cases with the price of the same: same framework, model, size, sequence, loss and machine."""
    cells = {
        (cell.framework, cell.model, cell.tp, cell.sequence, cell.loss, cell.hardware): cell
        for cell in (row.cell for row in study.measured(Price))
        if not cell.said
    }
    found = []
    for case in study.measured(Benched):
        device = str(case.made.hardware.get("device", "")).lower()
        for (framework, model, tp, sequence, loss, hardware), cell in cells.items():
            same = (framework, model, tp, sequence, loss) == (
                case.framework, case.model, case.tp, case.sequence, case.loss,
            )  # fmt: skip
            if same and hardware in device and not case.parallel and not case.compiled:
                found.append((case, cell))
    return found


def error(case: Benched, cell: Cell) -> float:
    """How far a prediction is off, as a part of what was measured."""
    return cell.pass_ms / case.milliseconds[0] - 1


def _only_measured(cell: Cell, rows: list[Price]) -> bool:
    """True for what is priced only to be held against a measurement: another sequence than the matrix has."""
    return cell.sequence != mode(row.cell.sequence for row in rows)


def _ordered(study: Study, cells: list[Cell]) -> list[Cell]:
    """Frameworks of one model and size beside each other, in the order of the study."""
    models = list(dict.fromkeys(cell.model for cell in cells))
    columns = list(dict.fromkeys([*study.frameworks, *(cell.framework for cell in cells)]))
    return sorted(cells, key=lambda cell: (models.index(cell.model), cell.tp, columns.index(cell.framework)))


def _unmeasured(cells: list[Cell]) -> str:
    """What milliseconds of machines are worth on which nothing was measured, as their rows say it."""
    said = dict.fromkeys(f"{cell.hardware}: {words}" for cell in cells for words in cell.assumed)
    if not said:
        return ", and guesses for a machine that was not: milliseconds of two machines say nothing of each other."
    return f". {'; '.join(said)}. Milliseconds of two such machines differ by their peaks alone, and by no host."


def _on(cells: list[Cell], key: tuple[str, int, str, str]) -> list[str]:
    cell = next((one for one in cells if (one.model, one.tp, one.framework, one.hardware) == key), None)
    if cell is None:
        return [ABSENT] * 3
    fits = ABSENT if cell.fits is None else "yes" if cell.fits else "**no**"
    return [f"{cell.step_ms:.0f}", fits, f"{cell.tokens_per_second:.0f}"]


def _case(cell: Cell) -> str:
    return f"tp={cell.tp} {cell.framework}"


def _times(cell: Cell) -> list[float]:
    known = [cell.parts.get(name, 0.0) for name in _PARTS]
    return [*known, max(cell.step_ms - sum(known), 0.0)]


def _held(cell: Cell) -> list[int]:
    known = [cell.by_category.get(name, 0) for name in _MEMORY]
    return [*known, cell.peak_bytes - sum(known)]
