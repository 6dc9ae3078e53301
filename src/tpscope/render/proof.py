"""Proofs in the terminal: a block for each of a few cases, else a table and what is to be said of the cases in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tpscope.language.plan import wildcard
from tpscope.language.proof import Diagnosis, ParameterProof, ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.prove.result import BAD, Proofs
from tpscope.prove.scenarios import TABLE
from tpscope.render.words import COLOURS, NOISE, number

FEW = 4
MOST_ROWS = 12
MOST_KEYS = 5
# What a scenario sets comes before what shrinking does.
_TELLING = re.compile(r"tie_word_embeddings|dropout|pdrop")
_SIZES = ("num_hidden_layers", "hidden_size", "head_dim", "intermediate_size", "vocab_size", "num_local_experts")


def scenarios(console: Console) -> None:
    """List the scenarios."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("scenario", no_wrap=True)
    table.add_column("what it proves")
    for name, entry in TABLE.items():
        table.add_row(name, entry.proves)
    console.print(table)
    console.print("They combine: lora+sequence-parallel.", highlight=False)


def show(proofs: Proofs, console: Console) -> None:
    """Print all cases: in full if they are few, else as a table with a line for what is not equal."""
    for note in proofs.notes:
        console.print(Text(f"note: {note}", style="dim"))
    if len(proofs.cases) <= FEW:
        for case in proofs.cases:
            block(case, console)
    else:
        console.print(matrix(proofs))
        for remark in _remarks(proofs):
            console.print(remark)
    for line in _footer(proofs.cases):
        console.print(Text(line, style="dim"))
    console.print(Text(verdicts(proofs), style="bold"))


def verdicts(proofs: Proofs) -> str:
    """`3 equal, 1 different`: one line about all cases."""
    words = ", ".join(f"{count} {verdict.value}" for verdict, count in proofs.counts().items())
    missing = f"; interrupted, {proofs.interrupted} not reached" if proofs.interrupted else ""
    scope = " (equal: on CPU, on the paths that are listed as exercised)" if Verdict.EQUAL in proofs.counts() else ""
    return (words or "no case") + missing + scope


def matrix(proofs: Proofs) -> Table:
    """One row a model, scenario and tp size, one column a framework."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    columns = list(dict.fromkeys(case.framework for case in proofs.cases))
    for head in ("model", "scenario", "tp"):
        table.add_column(head, overflow="fold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row, group in groupby(proofs.cases, key=lambda case: (case.model, case.scenario, str(case.tp))):
        cells = {case.framework: _cell(case) for case in group}
        table.add_row(*row, *(cells.get(column, Text("-", style="dim")) for column in columns))
    return table


def _cell(case: ProofAnswer) -> Text:
    text = Text(case.verdict.value, style=COLOURS[case.verdict])
    if causes := dict.fromkeys(found.cause.value for found in case.diagnosis):
        text.append(f" {', '.join(causes)}", style="default")
    return text


def _remarks(proofs: Proofs) -> Iterator[RenderableType]:
    """What is to be said of each case that is not equal; the same words of several cases once."""
    said: dict[tuple[str, str], list[ProofAnswer]] = {}
    for case in proofs.cases:
        if case.verdict != Verdict.EQUAL:
            said.setdefault((case.framework, _reason(case)), []).append(case)
    for (framework, reason), cases in said.items():
        names = ", ".join(dict.fromkeys(f"{case.model} {case.scenario} tp={case.tp}" for case in cases))
        verdict = cases[0].verdict
        yield Text.assemble((framework, "bold"), "  ", (verdict.value, COLOURS[verdict]), f"  {names}")
        yield Padding(Text(reason), (0, 0, 1, 2))


def _reason(case: ProofAnswer) -> str:
    lines = [_sentence(case)]
    lines += [found.sentence for found in case.diagnosis]
    if case.error is not None and case.error.where is not None:
        lines.append(f"{case.error.where.path}:{case.error.where.line}: {case.error.where.text}")
    return "\n".join([*lines, case.caveat] if case.caveat else lines)


def block(case: ProofAnswer, console: Console) -> None:
    """Everything that a user needs of one case."""
    console.print(_headline(case))
    console.print(Padding(Group(*_findings(case)), (0, 0, 0, 2)))
    for line in _places(case):
        # Evidence lines stay whole, so that a terminal can open them.
        console.print(Text(f"    {line}"), soft_wrap=True)
    for found in case.diagnosis:
        console.print()
        _diagnosis(found, console)
    if case.diagnosis:
        console.print()
    for said in _scope(case):
        console.print(Padding(said, (0, 0, 0, 2)))
    console.print()


def _headline(case: ProofAnswer) -> Text:
    scope = " on CPU, on these paths" if case.verdict == Verdict.EQUAL else ""
    return Text.assemble(
        (case.framework, "bold"), f"  {case.model}  {case.scenario}  tp={case.tp}   ",
        (case.verdict.value.upper(), COLOURS[case.verdict]), f"{scope} ({case.depth.value})",
    )  # fmt: skip


def _findings(case: ProofAnswer) -> Iterator[RenderableType]:
    if case.sentence:
        yield Text(_sentence(case))
    if case.caveat:
        yield Text(f"but: {case.caveat}", style="yellow")
    if case.loss_error is not None or case.forward_error is not None:
        yield Text(
            f"loss error {_measured(case.loss_error, case.loss_tolerance)}, "
            f"logits {_measured(case.forward_error, case.forward_tolerance)}"
        )
    if case.parameters:
        yield parameters(case)


def _sentence(case: ProofAnswer) -> str:
    """The sentence, with the kind of exception where the words alone do not say that it is one."""
    if case.verdict == Verdict.CRASHED and case.error is not None and case.sentence == case.error.message:
        return case.sentence if case.error.kind == "ProcessDied" else f"{case.error.kind}: {case.sentence}"
    return case.sentence


def _measured(error: float | None, tolerance: float | None) -> str:
    limit = f" (tolerance {number(tolerance)})" if tolerance is not None else ""
    return f"{number(error)}{limit}"


def parameters(case: ProofAnswer) -> RenderableType:
    """The worst parameters, every layer's together; one line where all are equal."""
    groups: dict[tuple[str, str], list[ParameterProof]] = {}
    for row in case.parameters:
        groups.setdefault((row.compared, _short(row.name)), []).append(row)
    wrong = {key: rows for key, rows in groups.items() if not all(row.equal for row in rows)}
    right = [row for key, rows in groups.items() if key not in wrong for row in rows]
    if not wrong:
        return _equal(right, "all")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    kinds = {compared for compared, _ in wrong}
    table.add_column(f"{kinds.pop() if len(kinds) == 1 else 'what differs'} (* = every layer)", overflow="fold")
    for head in ("error", "tolerance", "ranks agree", "differ"):
        table.add_column(head, justify="right")
    ordered = sorted(wrong.items(), key=lambda item: _size(_worst(item[1])), reverse=True)
    for (compared, pattern), rows in ordered[:MOST_ROWS]:
        worst, agree = _worst(rows), all(row.ranks_agree for row in rows)
        count = f"{sum(not row.equal for row in rows)} of {len(rows)}"
        error = number(worst.error) if worst.finite else "not finite"
        name = f"{compared} {pattern}" if kinds else pattern
        table.add_row(name, error, number(worst.tolerance), "yes" if agree else "no", count)
    lines: list[RenderableType] = [table]
    if len(ordered) > MOST_ROWS:
        lines.append(Text(f"and {len(ordered) - MOST_ROWS} more kinds of parameters (see --json)", style="dim"))
    return Group(*lines, _equal(right, "the other")) if right else Group(*lines)


def _short(name: str) -> str:
    return wildcard(name).removeprefix("model.").removesuffix(".weight")


def _equal(rows: list[ParameterProof], which: str) -> Text:
    near = max(rows, key=lambda row: (row.error or 0.0) / row.tolerance if row.tolerance else 0.0)
    what = f"{which} {len(rows)}" + (" parameters" if which == "all" else "")
    if (near.error or 0.0) < NOISE:
        return Text(f"{what} equal, errors {number(NOISE / 2)}", style="dim")
    nearest = f"nearest to its tolerance {_short(near.name)} {_measured(near.error, near.tolerance)}"
    return Text(f"{what} equal, {nearest}", style="dim")


def _worst(rows: list[ParameterProof]) -> ParameterProof:
    return max(rows, key=lambda row: (not row.equal, _size(row)))


def _size(row: ParameterProof) -> float:
    return float("inf") if row.error is None else row.error


def _places(case: ProofAnswer) -> Iterator[str]:
    """Where a case stopped: the line that raised, and what each rank said, where ranks ended differently."""
    if case.error is not None and case.error.where is not None:
        where = case.error.where
        yield f"{where.path}:{where.line}: {where.symbol}: {where.text}"
    last = {rank: trace.strip().rpartition("\n")[2].strip() for rank, trace in case.rank_errors.items()}
    if case.verdict in BAD and len(set(last.values())) > 1:
        for rank, words in last.items():
            yield f"rank {rank}: {words}"


def _diagnosis(found: Diagnosis, console: Console) -> None:
    repaired = "repaired: with the mend the case is equal" if found.repaired else "not repaired"
    console.print(Text.assemble("  ", (found.cause.value, "bold"), f"  ({repaired})"))
    console.print(Padding(Text(found.sentence), (0, 0, 0, 4)))
    if found.where and found.where not in found.sentence:
        console.print(Padding(Text(f"where: {found.where}"), (0, 0, 0, 4)))
    if found.factor and found.factor not in found.sentence:
        console.print(Padding(Text(f"factor: {found.factor}"), (0, 0, 0, 4)))
    for line in found.evidence:
        console.print(Text(f"    {line.path}:{line.line}: {line.symbol}: {line.text}"), soft_wrap=True)
    if found.mend:
        console.print(Padding(Text(f"mend: {found.mend}"), (0, 0, 0, 4)))


def _scope(case: ProofAnswer) -> Iterator[RenderableType]:
    for other in case.shallower:
        said = f": {other.sentence}" if other.sentence else ""
        yield Text(f"at depth {other.depth.value}: {other.verdict.value}{said}")
    for head, items in (("exercised", case.exercised), ("not exercised", case.not_exercised)):
        if items:
            yield Text(f"{head}: {'; '.join(dict.fromkeys(items))}", style="dim")


def _footer(cases: list[ProofAnswer]) -> Iterator[str]:
    """What holds for several cases, each said once: how models were shrunk, what ran, what stands in."""
    yield from dict.fromkeys(f"{case.model}: {_shrunk(case)}" for case in cases)
    for case in {case.framework: case for case in cases}.values():
        if packages := case.environment.get("packages"):
            ran = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
            yield f"{case.framework}: {ran}"
    yield from _together("stand-ins for hardware or launcher", [(case.framework, case.shims) for case in cases])
    if len(cases) > FEW:
        yield from _together("exercised", [(case.framework, case.exercised) for case in cases])
        yield from _together("not exercised", [(case.framework, case.not_exercised) for case in cases])


def _together(head: str, said: list[tuple[str, list[str]]]) -> Iterator[str]:
    """Each thing once, with the frameworks of which it is said."""
    about: dict[str, dict[str, None]] = {}
    for framework, items in said:
        for item in items:
            about.setdefault(item, {})[framework] = None
    groups: dict[str, list[str]] = {}
    for item, frameworks in about.items():
        groups.setdefault(", ".join(frameworks), []).append(item)
    for names, items in groups.items():
        yield f"{head} ({names}): {'; '.join(items)}"


def _shrunk(case: ProofAnswer) -> str:
    if not case.shrunk:
        return "the published configuration as it is, every parameter random"
    keys = [key for key in case.shrunk if _TELLING.search(key)]
    keys += [key for size in _SIZES for key in case.shrunk if key.rpartition(".")[2] == size]
    shown = list(dict.fromkeys(keys))[:MOST_KEYS]
    changes = ", ".join(f"{key} {_value(case.shrunk[key][0])} -> {_value(case.shrunk[key][1])}" for key in shown)
    rest = len(case.shrunk) - len(shown)
    return f"shrunk, every parameter random: {changes}" + (f", and {rest} more keys (see --json)" if rest else "")


def _value(value: object) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
