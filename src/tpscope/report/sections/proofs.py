"""What the proofs of the sweep say about one way to train: the part that several sections share."""

from __future__ import annotations

from collections.abc import Sequence

from tpscope import bugs
from tpscope.language.verdict import Verdict
from tpscope.report import prove_pages
from tpscope.report.facts import Study
from tpscope.report.prove_rows import Cell
from tpscope.report.text import listed, not_yet, plotted, table, together

_NO_ANSWER = (Verdict.CRASHED, Verdict.REFUSED, Verdict.UNSUPPORTED, Verdict.INCONCLUSIVE)


def proved(study: Study, scenarios: Sequence[str], what: str) -> list[str]:
    """Verdicts of some scenarios by framework version, and what is different, raised or missing beyond plain TP."""
    cells = [cell for cell in study.proofs.cells if cell.scenario in scenarios]
    if not cells:
        return [f"Whether {what} still computes what the unsharded model does: {not_yet('prove')}.", ""]
    lines = ["### Proved, number by number", "", _in_short(cells, what), ""]
    lines += table(
        f"Proofs of {listed(scenarios)} at TP=2, by framework version over {_models(cells)}: cells by verdict.",
        ["framework", *(verdict.value for verdict in Verdict), "cells"],
        prove_pages.counts(study.proofs, scenarios),
    )
    new = [cell for cell in cells if cell.verdict == Verdict.DIFFERENT and _beyond_plain(study, cell)]
    rows = prove_pages.differences(study.proofs, new, bugs.load())
    if rows:
        lines += table(
            "What is different, and is not already so under plain tensor parallelism: the cause that the diagnosis "
            "named, the entry of the bug book (`docs/bugs.md`), and whose fault it is.",
            prove_pages.DIFFERENCES, rows,
        )  # fmt: skip
    raised = prove_pages.raised(cell for cell in cells if cell.verdict in _NO_ANSWER and _beyond_plain(study, cell))
    if raised:
        lines += table(
            "Cells without a comparison, where the plain proof of the same model has one or ends otherwise.",
            prove_pages.RAISED, raised,
        )  # fmt: skip
    same = [cell for cell in cells if cell.verdict != Verdict.EQUAL and not _beyond_plain(study, cell)]
    if same:
        lines += [f"As under plain tensor parallelism (section 6), and not repeated here: {_brief(same)}.", ""]
    return lines


def _in_short(cells: Sequence[Cell], what: str) -> str:
    found = [(verdict, sum(cell.verdict == verdict for cell in cells)) for verdict in Verdict]
    said = listed(f"{count} {verdict.value}" for verdict, count in found if count)
    compared = [cell for cell in cells if cell.verdict in (Verdict.EQUAL, Verdict.DIFFERENT)]
    silent = [cell for cell in compared if cell.verdict == Verdict.DIFFERENT and cell.loss_error is not None]
    exact = sum((cell.loss_error or 0.0) < _EXACT for cell in silent)
    words = f"Of {len(cells)} proofs of {what}: {said}."
    if silent:
        words += f" In {exact} of the different ones the loss is exact, so that no loss curve shows them."
    return words


_EXACT = 1e-12


def _models(cells: Sequence[Cell]) -> str:
    count = len({cell.model for cell in cells})
    return f"{count} models" if count != 1 else "one model"


def _beyond_plain(study: Study, cell: Cell) -> bool:
    """True unless the plain proof of the same model under the same framework ends in the same way, for the same."""
    plain = study.proofs.cell(cell.framework, cell.model)
    if cell.scenario == "plain" or plain is None or plain.verdict != cell.verdict:
        return True
    return bool(set(cell.causes) - set(plain.causes)) or (cell.verdict != Verdict.DIFFERENT and cell.said != plain.said)


def _brief(cells: Sequence[Cell]) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        word = listed(cell.causes, "no cause named") if cell.verdict == Verdict.DIFFERENT else cell.verdict.value
        groups.setdefault((cell.framework, word), []).append(cell.model)
    return together(f"{framework} {word} ({listed(names)})" for (framework, word), names in groups.items())


def by_way(study: Study) -> list[str]:
    """Every way to train under every framework version: cells by verdict, drawn and as a table."""
    rows = []
    for key in study.proofs.frameworks:
        for way in study.proofs.scenarios:
            cells = study.proofs.of(key, way)
            if cells:
                rows.append([key, way, *(str(sum(cell.verdict == verdict for cell in cells)) for verdict in Verdict)])
    return [
        *plotted("stacked"),
        *table(
            f"Proofs by framework version and way to train at TP=2, {_models(study.proofs.cells)}: cells by verdict. "
            "`different` is what no error announces.",
            ["framework", "scenario", *(verdict.value for verdict in Verdict)], rows,
        ),
    ]  # fmt: skip


def by_model(study: Study) -> list[str]:
    """Every model under every framework version that was swept: the plain verdict, and in how many ways it is equal."""
    frameworks = study.proofs.frameworks
    return table(
        "Proofs on small models of the same structure, TP=2: the plain verdict (`=` equal, **≠** different with its "
        "cause, `-` not there), and in how many of the ways to train that were swept the sharded model is equal.",
        ["model", *frameworks],
        [[f"`{name}`", *(_standing(study, key, name) for key in frameworks)] for name in study.proofs.models],
    )


def _standing(study: Study, framework: str, model: str) -> str:
    cells = [cell for cell in study.proofs.of(framework) if cell.model == model]
    if not cells:
        return "not swept"
    equal = sum(cell.verdict == Verdict.EQUAL for cell in cells)
    return f"{prove_pages.short(study.proofs.cell(framework, model))}; {equal} of {len(cells)}"
