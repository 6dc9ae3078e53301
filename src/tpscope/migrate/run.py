"""Migrate one file: convert, write, and ask the frameworks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tpscope.errors import NoFramework, UserError
from tpscope.frameworks import registry
from tpscope.frameworks.registry import Target
from tpscope.migrate import answers, checks, evidence, placed, proofs, trained, write
from tpscope.migrate.convert import OTHER, convert, ranks_of
from tpscope.migrate.job import TITLE, Draft, Ranks
from tpscope.migrate.result import Check, Migration, Standing, Verdict
from tpscope.migrate.rows import PACKAGE
from tpscope.migrate.source import Source, plain_of, read

Say = Callable[[str, str], None]
DEFAULT = {"nemo": "nemo@0.7.0", "axolotl": "axolotl@0.19.0"}


@dataclass(frozen=True)
class Asked:
    """What the user wants. `samples`: how many samples the training data have, None where it is not known."""

    path: Path
    to: str | None = None
    out: str | None = None
    target: str | None = None
    source: str | None = None
    world: int | None = None
    samples: int | None = None
    force: bool = False
    compare: bool = False
    prove: bool = False
    check: bool = True
    fresh: bool = False


def migrate(asked: Asked, say: Say = lambda kind, text: None) -> Migration:
    """The answer for one file. Raises UserError for input that cannot be meant; then nothing is written."""
    started = time.monotonic()
    source = read(asked.path)
    target = _target(asked, source)
    own = _own(asked, source)
    if asked.out not in (None, "-"):
        write.may(Path(asked.out or ""), asked.force)
    ranks = ranks_of(source, asked.world)
    draft, unknown = convert(source, ranks, asked.samples)
    _there(draft, target)
    text = write.text_of(draft, source, unknown)
    result = Migration(
        str(asked.path),
        own.id,
        target.id,
        ranks.world or 0,
        draft.fields,
        unknown,
        text,
        command=command(asked, target),
    )
    result.notes += [f"{key} repeats a key; the last value counts, as for the framework" for key in source.repeated]
    roots = {own.family.name: evidence.root_of(own), target.family.name: evidence.root_of(target)}
    for item, row in draft.rows:
        item.evidence = evidence.lines(row, roots)
    if asked.check:
        _look(asked, source, result, own, target, ranks, say)
    if asked.out not in (None, "-"):
        write.put(Path(asked.out or ""), text, asked.force)
        result.written = asked.out or ""
    result.seconds = round(time.monotonic() - started, 1)
    return result


def _look(
    asked: Asked, source: Source, result: Migration, own: Target, target: Target, ranks: Ranks, say: Say
) -> None:  # fmt: skip
    before = checks.Side(source.kind, own, source.plain, str(asked.path))
    after = checks.Side(OTHER[source.kind], target, plain_of(result.output), "the output")
    spec, why = checks.model_of(asked.path)
    world = result.world or 1
    try:
        checks.readings([before, after], spec.config if spec else {}, world, say, asked.fresh)
    except NoFramework as error:
        result.checks.append(Check("both frameworks", Standing.UNCHECKED, str(error)))
    result.checks += checks.said(before, own=False) + checks.said(after, own=True)
    result.checks += checks.meaning(before, after, ranks)
    if spec is None:
        result.checks.append(Check("pitfalls", Standing.UNCHECKED, why))
    for side, standing in ((before, Standing.TOLD), (after, Standing.WARNING)):
        result.checks += checks.pitfalls(side, spec, world, standing)
        for shim in side.answer.shims if side.answer else ():
            if shim not in result.shims:
                result.shims.append(shim)
    if (asked.compare or asked.prove) and spec is not None:
        length = answers.steps_of(before, ranks, asked.samples)
        found = answers.asked([before, after], spec, world, length, say, asked.fresh)
        result.checks += [*placed.compared(found), *trained.compared(found)]
        for one in found:
            result.shims += [shim for shim in one.shims if shim not in result.shims]
    if asked.prove and spec is not None:
        result.checks += proofs.proven([before, after], spec, world, say, asked.fresh)


def _target(asked: Asked, source: Source) -> Target:
    """The version to write for. Raises UserError where the file is for that framework already."""
    to = OTHER[source.kind]
    if asked.to is not None and asked.to != to:
        if asked.to not in OTHER:
            raise UserError(f"--to {asked.to}: a config moves to nemo or axolotl; write one of them")
        raise UserError(f"{asked.path} is written for {TITLE[source.kind]} already; write --to {to}")
    target = registry.parse(asked.target or DEFAULT[to])
    if target.family.name != to:
        raise UserError(f"--target {target.id}: {asked.path} moves to {TITLE[to]}; write --target {DEFAULT[to]}")
    return target


def _own(asked: Asked, source: Source) -> Target:
    """The version that the input is for. Raises UserError where that is another framework's."""
    own = registry.parse(asked.source or DEFAULT[source.kind])
    if own.family.name != source.kind:
        usual = DEFAULT[source.kind]
        raise UserError(f"--source {own.id}: {asked.path} is written for {TITLE[source.kind]}; write --source {usual}")
    return own


def _there(draft: Draft, target: Target) -> None:
    """Leave out defaults that a version has no key for, and say so.

    Raises UserError for a version whose source does not know a key that the input asks for.
    """
    root = evidence.root_of(target)
    if root is None or target.id == DEFAULT[draft.to]:
        return
    names = {path.rpartition(".")[2] for path in draft.written}
    missing = evidence.unread(names, root, PACKAGE[draft.to])
    gone = [item for path, item in draft.written.items() if path.rpartition(".")[2] in missing]
    if asked := [item.path for item in gone if item.leaf is not None]:
        raise UserError(
            f"{target.id} has no {', '.join(asked[:4])}: its source does not know the "
            f"name{'s' if len(asked) > 1 else ''}; take --target {DEFAULT[draft.to]}, or leave out of the input what "
            "asks for it"
        )
    for item in gone:
        del draft.written[item.path]
        for field in draft.fields:
            if field.target == item.path:
                field.target, field.verdict = "", Verdict.DROPPED
                field.reason = f"{target.id} has no {item.path}, which would be {item.value}: {field.reason}"


def command(asked: Asked, target: Target) -> str:
    """The command that asks the same again."""
    words = [f"tpscope migrate {asked.path} --to {target.family.name}"]
    words += [f"--target {asked.target}"] if asked.target else []
    words += [f"--source {asked.source}"] if asked.source else []
    words += [f"--world {asked.world}"] if asked.world else []
    words += [f"--samples {asked.samples}"] if asked.samples else []
    words += ["--compare"] if asked.compare and not asked.prove else []
    return " ".join(words + (["--prove"] if asked.prove else []))
