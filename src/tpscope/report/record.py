"""Runs the comparisons of the study and keeps of each answer what the study tells."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tpscope.compare.ask import Wishes, question
from tpscope.compare.join import canonical
from tpscope.compare.result import Comparison, Difference
from tpscope.compare.run import Pool, compare
from tpscope.errors import NoFramework, UserError
from tpscope.frameworks.registry import Target
from tpscope.frameworks.targets import resolve
from tpscope.language.answer import Failure, FrameworkAnswer, ParameterRow, Selection, TrailLine
from tpscope.language.layout import Layout, Lora
from tpscope.language.plan import wildcard
from tpscope.language.verdict import Severity, Status
from tpscope.report.rows import Column, Group, Provenance, Question, Row, RunRow
from tpscope.report.runs import Run
from tpscope.report.sources import source_row

TRAIL, GRADIENT_TRAIL = 60, 40
_TELLING = re.compile(r"plan|tp_|_tp|parallel|mesh|shard|\btie|tied|raise|all_reduce|all_gather|full_tensor|grad", re.I)
# Addresses and temporary folders differ from run to run and say nothing.
_VARYING = (
    (re.compile(r"\b\d{12,}\b|\b0x[0-9a-f]{6,}\b"), "<address>"),
    (re.compile(r"/\S*?/tpscope-[^/\s]+"), "<scratch>"),
    (re.compile(r"/\S*?/overlays/[^/\s]+/"), ""),
)


def record(
    runs: Iterable[Run], frameworks: tuple[str, ...], say: Callable[[str], None], fresh: bool = False
) -> list[Row]:
    """Run everything (what was run before comes from the cache) and read the sources of the files that ran.

    A framework version that cannot be installed is a column that says so. Raises UserError if that is all of them.
    """
    made = provenance()
    rows: list[Row] = []
    with Pool(lambda kind, text: say(text) if kind == "install" else None, fresh) as pool:
        targets, missing = _installed(resolve(list(frameworks), None), pool)
        for run in runs:
            say(run.command(frameworks))
            row = _run_row(run, compare(question(run.model, _wishes(run)), targets, pool), frameworks, made)
            rows.append(_with_missing(row, frameworks, missing))
    return [*rows, *_sources(rows, targets, made, say)]


def reread(rows: Iterable[Row], frameworks: tuple[str, ...], say: Callable[[str], None]) -> list[Row]:
    """The recorded runs as they are, and the sources read again: for what is read and not run."""
    runs = [row for row in rows if isinstance(row, RunRow)]
    return [*runs, *_sources(runs, resolve(list(frameworks), None), provenance(), say)]


def _sources(rows: Iterable[Row], targets: list[Target], made: Provenance, say: Callable[[str], None]) -> list[Row]:
    named: dict[str, set[str]] = {target.id: set() for target in targets}
    plans: dict[str, set[str]] = {target.id: set() for target in targets}
    for run_row in rows:
        assert isinstance(run_row, RunRow)
        for column in (column for column in run_row.answers if column.id in named):
            named[column.id] |= set(column.ran) | {line.path for line in _single_lines(column)}
            plans[column.id].add(column.selection.function)
    found: list[Row] = []
    for target in targets:
        say(f"reading the source of {target.id}")
        found.append(source_row(target, named[target.id], plans[target.id], made))
    return found


def _installed(targets: list[Target], pool: Pool) -> tuple[list[Target], dict[str, str]]:
    """The targets that are there or could be installed, and of the others the reason by id."""
    there: list[Target] = []
    missing: dict[str, str] = {}
    for target in targets:
        try:
            pool.prepare([target])
        except UserError as error:
            missing[target.id] = str(error).replace(target.id, "it")
        else:
            there.append(target)
    if not there:
        raise NoFramework(f"no framework could be run: {'; '.join(missing.values())}")
    return there, missing


def _with_missing(row: RunRow, frameworks: tuple[str, ...], missing: dict[str, str]) -> RunRow:
    """A row with a column, and a finding, for each version that could not be installed."""
    for key, reason in missing.items():
        row.answers.append(
            Column(key, Status.UNSUPPORTED, Failure("NotInstalled", steady(reason), "installation", None))
        )
    row.answers.sort(key=lambda column: frameworks.index(column.id))
    values = {column.id: column.status.value for column in row.answers}
    told = [
        Difference("status", values, f"{key}: is not there: {steady(reason)}", Severity.BLOCKS)
        for key, reason in missing.items()
    ]
    row.differences = sorted([*row.differences, *told], key=lambda item: list(Severity).index(item.severity))
    return row


def _single_lines(column: Column) -> list[TrailLine]:
    """Lines that an answer names beside its traces."""
    errors = [error.where for error in (column.error, column.loop_error) if error]
    return [line for line in [*errors, column.head.where, column.head.retied_at] if line]


def provenance() -> Provenance:
    """Commit (with a mark where src/ has changes that are not committed), date and machine."""
    root = Path(__file__).resolve().parents[3]
    commit = _git(root, "rev-parse", "HEAD") or "unknown"
    if _git(root, "status", "--porcelain", "--", "src"):
        commit += " with uncommitted changes"
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    hardware = {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()}
    return Provenance(commit, date, hardware)


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _wishes(run: Run) -> Wishes:
    sizes: dict[str, Any] = {axis: size for axis, size in run.layout.sizes.items() if size > 1}
    return Wishes(**sizes, sequence_parallel=run.layout.sequence_parallel or None, lora=run.lora)


def _run_row(run: Run, result: Comparison, frameworks: tuple[str, ...], made: Provenance) -> RunRow:
    sizes = {key: value for key, value in result.layout.items() if key != "world"}
    lora = Lora(**{**result.lora, "targets": tuple(result.lora["targets"])}) if result.lora else None
    model = result.model
    asked = Question(
        run.kind, run.model, Layout(**sizes), model.architecture, model.source, model.status, lora, result.notes
    )
    told = [
        Difference(
            item.subject,
            {key: steady(value) for key, value in item.values.items()},
            steady(item.meaning),
            item.severity,
        )
        for item in result.differences
    ]
    return RunRow(run.command(frameworks), made, asked, [compact(answer) for answer in result.frameworks], told)


def compact(answer: FrameworkAnswer) -> Column:
    """An answer cut down to what the study tells."""
    chosen = answer.selection
    forward = answer.forward
    return Column(
        id=answer.id,
        status=answer.status,
        error=_failure(answer.error),
        packages=dict(sorted(answer.environment.get("packages", {}).items())),
        outside_pin=sorted(answer.environment.get("outside_pin", []), key=lambda item: item["package"]),
        model_class=answer.model_class,
        selection=Selection(
            chosen.level, chosen.function, chosen.order, chosen.experiments, excerpt(chosen.trail, TRAIL)
        ),
        ran=dict(Counter(line.path for line in [*chosen.trail, *answer.gradient_trail])),
        plan=answer.plan,
        parameters=groups(answer.parameters),
        total_parameters=answer.total_parameters,
        sharded_fraction=answer.sharded_fraction,
        unmatched=answer.unmatched,
        ignored=answer.ignored,
        head=answer.head,
        mesh=answer.mesh,
        lora=answer.lora,
        collectives=forward.get("collectives_small_model", {}),
        observed=forward.get("observed", ""),
        unobserved=steady(forward.get("unobserved", "")),
        not_run={
            phase: steady(f"{raised['kind']}: {raised['message']}")
            for phase, raised in forward.get("not_run", {}).items()
        },
        loop_error=_failure(answer.loop_error),
        gradient_trail=excerpt(answer.gradient_trail, GRADIENT_TRAIL),
        shims=answer.shims,
    )


def _failure(error: Failure | None) -> Failure | None:
    if error is None:
        return None
    return Failure(error.kind, steady(error.message), error.phase, error.where)


def steady(text: str) -> str:
    """A text without what differs from run to run."""
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return text


def excerpt(lines: list[TrailLine], limit: int) -> list[TrailLine]:
    """At most `limit` lines of a trail, in the order in which they ran.

    Lines that speak of plans, meshes, shards or gradients come first, and every function gets its share.
    """
    unique = list({(line.path, line.line): line for line in lines}.values())
    seen: Counter[tuple[str, str, bool]] = Counter()
    ranked = []
    for index, line in enumerate(unique):
        telling = bool(_TELLING.search(line.text))
        place = (line.path, line.symbol, telling)
        ranked.append((not telling, seen[place], index))
        seen[place] += 1
    kept = sorted(index for _, _, index in sorted(ranked)[:limit])
    return [unique[index] for index in kept]


def groups(rows: list[ParameterRow]) -> list[Group]:
    """Parameters by canonical name, first occurrence first."""
    found: dict[str, list[ParameterRow]] = {}
    for row in rows:
        found.setdefault(canonical(row.name), []).append(row)
    return [_group(name, mine) for name, mine in found.items()]


def _group(name: str, rows: list[ParameterRow]) -> Group:
    def joined(values: Iterable[Any]) -> str:
        return " / ".join(dict.fromkeys(str(value) for value in values))

    first = wildcard(rows[0].name)
    return Group(
        name,
        len(rows),
        joined(row.shape for row in rows),
        joined(row.placement for row in rows),
        joined(row.local_shape for row in rows),
        joined(row.gradient.value for row in rows),
        joined(row.gradient_loop.value for row in rows),
        any(row.trainable for row in rows),
        first if first != name else "",
        rows[0].mesh,
    )
