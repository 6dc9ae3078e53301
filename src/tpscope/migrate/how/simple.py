"""What most rows do: copy a value, look it up in a table, or have nothing to copy it to."""

from __future__ import annotations

from tpscope.migrate.job import TITLE, Job
from tpscope.migrate.result import Verdict
from tpscope.models.fields import interpolated


def same(job: Job) -> None:
    """Copy a value under the target's name; where nothing is stated, write the source's default if it differs."""
    target = job.row.keys[job.to][0]
    if not job.leaves:
        _default(job, target)
        return
    path = next((leaf.path for leaf in job.leaves if job.get(leaf.path) is not None), job.leaves[0].path)
    value = job.get(path)
    for leaf in job.leaves:
        if leaf.path != path and job.get(leaf.path) is not None:
            job.say(leaf.path, Verdict.DROPPED, f"{path} is stated too and counts")
    if value is None:
        for leaf in job.leaves:
            job.lose(leaf.path)
        _default(job, target)
        return
    if alone(job):
        return
    if interpolated(value) and job.to == "axolotl":
        reason = "NeMo fills it in from the environment, Axolotl takes it as it stands: write the value"
        job.put(target, value, Verdict.NEEDS_YOU, path, reason)
        return
    verdict = job.row.verdict or (Verdict.EXACT if target == path else Verdict.RENAMED)
    job.put(target, job.source.object(path), verdict, path)


def _default(job: Job, target: str) -> None:
    defaults = job.row.defaults or {}
    within = (job.row.within or {}).get(job.kind)
    if job.kind not in defaults or (within and not job.source.has(within)):
        return
    here, there = defaults[job.kind], defaults.get(job.to)
    if here != there:
        said = job.row.reason or (f"{TITLE[job.to]} has none" if there is None else f"{TITLE[job.to]}'s is {there}")
        reason = f"{TITLE[job.kind]}'s default, written out: {said}"
        job.put(target, here, Verdict.DERIVED, reason=reason)


def alone(job: Job) -> bool:
    """True for keys of a section that the file does not have: they are dropped."""
    within = (job.row.within or {}).get(job.kind)
    if not within or job.source.has(within):
        return False
    for leaf in job.leaves:
        job.lose(leaf.path, f"without {within} nothing reads it", Verdict.EXACT)
    return True


def flag(job: Job) -> None:
    """Copy true or false, also where it is written as a word."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if alone(job):
        return
    for leaf in job.leaves:
        value = job.get(leaf.path)
        if isinstance(value, str) and value.lower() in words:
            value = words[value.lower()]
        if value is None:
            job.lose(leaf.path)
            continue
        target = job.row.keys[job.to][0]
        job.put(
            target, value, job.row.verdict or (Verdict.EXACT if target == leaf.path else Verdict.RENAMED), leaf.path
        )


def none(job: Job) -> None:
    """The target has nothing for these keys."""
    for leaf in job.leaves:
        job.lose(leaf.path)


def table(job: Job) -> None:
    """Look a value up; one that is not in the table needs the user."""
    pairs = job.row.table or {}
    lookup = pairs if job.to == "nemo" else {value: key for key, value in pairs.items()}
    target = job.row.keys[job.to][0]
    if not job.leaves:
        _default(job, target)
    for leaf in job.leaves:
        value = job.get(leaf.path)
        if value is None:
            job.lose(leaf.path)
        elif (found := lookup.get(str(value).lower() if isinstance(value, bool) else str(value))) is not None:
            as_is = {"true": True, "false": False}.get(found, found)
            job.put(target, as_is, job.row.verdict or Verdict.RENAMED, leaf.path)
        else:
            job.say(
                leaf.path, Verdict.NEEDS_YOU, f"{TITLE[job.to]} has no {value}: it has {', '.join(lookup.values())}"
            )
