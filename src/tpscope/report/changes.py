"""What changed from one version of a framework to another, for the models of the recorded runs, worst first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from tpscope.language.verdict import Severity, Status
from tpscope.report.facts import Study, harm, label
from tpscope.report.prove_rows import Cell
from tpscope.report.rows import REGISTERED, SETTING, Column, Group, RunRow
from tpscope.report.runs import ADAPTERS, PLAIN, SEQUENCE
from tpscope.report.text import at, counted, listed, place, together

_SCENARIOS = {PLAIN: "plain", SEQUENCE: "sequence-parallel", ADAPTERS: "lora"}
_WHOLE = "Replicate()"


class Kind(StrEnum):
    """What a change is about, worst first."""

    GRADIENT = "gradient"
    WRONG = "tie or adapter"
    CRASH = "crash"
    REFUSAL = "refusal"
    LEVEL = "plan level"
    PLACEMENT = "placement"
    HEAD = "output head"
    TRAFFIC = "collectives"
    IGNORED = "ignored setting"
    SETTING = "setting"
    REGISTRY = "registered class"


@dataclass(frozen=True)
class Seen:
    """One change in one run. `wrong`: the comparison holds one of the two versions to be wrong for it."""

    kind: Kind
    subject: str
    before: str
    after: str
    wrong: bool = False


@dataclass
class Change:
    """A change over all runs that show it, and what the proofs of those models say of both versions."""

    seen: Seen
    runs: list[RunRow] = field(default_factory=list)
    proofs: str = ""


@dataclass(frozen=True)
class Verdicts:
    """A way to train in which the proofs of two versions do not end alike, and the models for which that is so."""

    scenario: str
    before: str
    after: str
    models: tuple[str, ...]


def pairs(study: Study) -> list[tuple[str, str]]:
    """Each version with the next newer one of its family among the columns."""
    return [pair for versions in study.families().values() for pair in pairwise(versions)]


def changes(study: Study, old: str, new: str) -> list[Change]:
    """Every change between two versions, those that say the same put together, worst first."""
    found: dict[Seen, Change] = {}
    for run in study.runs:
        for seen in _of_run(run, old, new):
            found.setdefault(seen, Change(seen)).runs.append(run)
    for change in found.values():
        if change.seen.kind in (Kind.GRADIENT, Kind.WRONG, Kind.CRASH, Kind.REFUSAL):
            change.proofs = _proofs(study, change.runs, old, new)
    kinds = list(Kind)
    kept = sorted(found.values(), key=lambda item: (kinds.index(item.seen.kind), not item.seen.wrong, -len(item.runs)))
    return [*kept, *(Change(seen) for seen in _of_source(study, old, new))]


def _of_run(run: RunRow, old: str, new: str) -> Iterator[Seen]:
    before, after = run.column(old), run.column(new)
    if before is None or after is None:
        return
    said = [(column.status, column.error.message if column.error else "") for column in (before, after)]
    if said[0] != said[1]:
        crashed = Status.CRASHED in (before.status, after.status)
        yield Seen(Kind.CRASH if crashed else Kind.REFUSAL, "answer", _words(before), _words(after))
    if before.status != Status.OK or after.status != Status.OK:
        return
    yield from _findings(run, old, new)
    yield from _gradients(run, before, after)
    yield from _facts(before, after)
    yield from _placements(before, after)


def _words(column: Column) -> str:
    if column.error is None:
        return column.status.value
    where = f" ({at(column.error.where)})" if column.error.where else ""
    return f"{column.status.value}: {column.error.message}{where}"


def _findings(run: RunRow, old: str, new: str) -> Iterator[Seen]:
    """Findings of the comparison that are about one of the two versions alone, gradients apart."""
    kinds = {Severity.WRONG: Kind.WRONG, Severity.BLOCKS: Kind.CRASH, Severity.IGNORED: Kind.IGNORED}
    told = {key: {item.subject: item for item in harm(run, key)} for key in (old, new)}
    for subject in dict.fromkeys([*told[old], *told[new]]):
        first, second = told[old].get(subject), told[new].get(subject)
        item = first or second
        if item is None or (first and second) or subject == "status" or subject.startswith("gradient of"):
            continue
        nothing = "nothing found"
        yield Seen(
            kinds[item.severity], subject, first.words if first else nothing, second.words if second else nothing,
            item.severity == Severity.WRONG,
        )  # fmt: skip


def _gradients(run: RunRow, before: Column, after: Column) -> Iterator[Seen]:
    """What happens over tp to the gradients of parameters that both versions keep whole."""
    blamed = {
        name
        for key in (before.id, after.id)
        for item in harm(run, key)
        if item.severity == Severity.WRONG
        for name in item.subject.removeprefix("gradient of ").split(", ")
    }
    groups: dict[tuple[str, str, bool], list[str]] = {}
    for first, second in _both(before, after):
        loops = (first.gradient_loop, second.gradient_loop)
        whole = first.placement == second.placement == _WHOLE
        if whole and loops[0] != loops[1] and "unobserved" not in loops and first.trainable and second.trainable:
            groups.setdefault((*loops, short(first.name) in blamed), []).append(short(first.name))
    for (one, other, wrong), names in groups.items():
        yield Seen(Kind.GRADIENT, f"gradient of {listed(names)}", one, other, wrong)


def _facts(before: Column, after: Column) -> Iterator[Seen]:
    def told(kind: Kind, subject: str, one: str, other: str) -> Iterator[Seen]:
        if one != other:
            yield Seen(kind, subject, one or "none", other or "none")

    yield from told(Kind.LEVEL, "level that gave the plan", _level(before), _level(after))
    yield from told(Kind.LEVEL, "order of the sources", _order(before), _order(after))
    gathered = (column.head.gathered_by or "nobody" for column in (before, after))
    yield from told(Kind.HEAD, "logits gathered by", *gathered)
    axes = (" x ".join(f"{axis}={size}" for axis, size in column.mesh.axes.items()) for column in (before, after))
    yield from told(Kind.PLACEMENT, "mesh", *axes)
    if not before.collectives or not after.collectives:
        return
    for phase in dict.fromkeys([*before.collectives, *after.collectives]):
        counts = (counted(column.collectives.get(phase, {})) for column in (before, after))
        yield from told(Kind.TRAFFIC, f"collectives of the two-layer model, {phase}", *counts)


def _level(column: Column) -> str:
    chosen = column.selection
    path, _, name = chosen.function.rpartition(":")
    where = path.rpartition("/")[2] if name.isdigit() else name
    return f"{chosen.level}: `{where}`" if chosen.level else ""


def _order(column: Column) -> str:
    return ", ".join(step.level for step in column.selection.order)


def _placements(before: Column, after: Column) -> Iterator[Seen]:
    groups: dict[tuple[str, str], list[str]] = {}
    for first, second in _both(before, after):
        if first.placement != second.placement:
            groups.setdefault((place(first.placement), place(second.placement)), []).append(short(first.name))
    for (one, other), names in groups.items():
        yield Seen(Kind.PLACEMENT, f"placement of {listed(names)}", one, other)


def _both(before: Column, after: Column) -> list[tuple[Group, Group]]:
    """Parameters that both versions have, by their common name."""
    theirs = {group.name: group for group in after.parameters}
    return [(group, theirs[group.name]) for group in before.parameters if group.name in theirs]


def _of_source(study: Study, old: str, new: str) -> Iterator[Seen]:
    """Settings and registered classes that came, went or have another type."""
    for what, kind, absent in ((SETTING, Kind.SETTING, "no such field"), (REGISTERED, Kind.REGISTRY, "not registered")):
        tables = [{_bare(item.name): item for item in study.cited(key, what)} for key in (old, new)]
        groups: dict[tuple[str, str], list[str]] = {}
        for name in dict.fromkeys([*tables[0], *tables[1]]):
            one, other = ((f"`{table[name].value}`" if name in table else absent) for table in tables)
            if one != other:
                groups.setdefault((one, other), []).append(f"`{name}`")
        for (one, other), names in groups.items():
            yield Seen(kind, listed(names), one, other)


def _bare(name: str) -> str:
    """A class by its own name, however a version spells the key: `get_name(X)` and `package.module.X` are X."""
    return name.rstrip(")").rpartition("(")[2].rpartition(".")[2]


def _proofs(study: Study, runs: Iterable[RunRow], old: str, new: str) -> str:
    """What the proofs say of both versions for the models of some runs, in the way to train that a run stands for."""
    found: dict[str, list[str]] = {}
    for run in runs:
        scenario = _SCENARIOS.get(run.question.kind)
        cells = [study.proofs.cell(key, run.question.model, scenario) for key in (old, new)] if scenario else []
        if cells and all(cells):
            words = " to ".join(verdict(cell) for cell in cells if cell)
            found.setdefault(words, []).append(label(run))
    return together(f"{words} ({listed(names)})" for words, names in found.items()) if found else ""


def verdict(cell: Cell) -> str:
    """A proof in its verdict and the causes that were named."""
    return cell.verdict.value + (f", {listed(cell.causes)}" if cell.causes else "")


def verdicts(study: Study, old: str, new: str) -> list[Verdicts]:
    """Proofs of both versions that do not end alike, what is different in either version first."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for cell in study.proofs.of(old):
        other = study.proofs.cell(new, cell.model, cell.scenario)
        if other is not None and verdict(cell) != verdict(other):
            groups.setdefault((cell.scenario, verdict(cell), verdict(other)), []).append(cell.model)
    rows = [Verdicts(*facts, tuple(models)) for facts, models in groups.items()]
    return sorted(rows, key=lambda row: ("different" not in row.before + row.after, -len(row.models)))


def short(name: str) -> str:
    """A parameter's name without the layer: `q_norm`."""
    bare = name.removesuffix(".weight")
    for prefix in ("model.layers.*.", "model.", "self_attn."):
        bare = bare.removeprefix(prefix)
    return bare
