"""The chapter on versions: what differs between two versions of one framework for these models, worst first."""

from __future__ import annotations

from tpscope.report.changes import Change, Kind, changes, pairs, verdicts
from tpscope.report.facts import Study
from tpscope.report.runs import PLAIN
from tpscope.report.text import ABSENT, listed, not_yet, quoted, table, together

TITLE = "What changed between versions"
_REDUCED = (r"synchronize\w*grad|replica\w*grad",)


def section(study: Study) -> list[str]:
    """For each version and the next newer one: the worst change in a sentence, all changes, proofs that changed."""
    lines: list[str] = []
    for old, new in pairs(study):
        lines += [f"### {old} to {new}", ""]
        if not study.source(old) or not study.source(new):
            gone = listed(key for key in (old, new) if not study.source(key))
            lines += [f"{gone} could not be installed: {not_yet('compare')}.", ""]
            continue
        lines += _pair(study, old, new)
    return lines or [f"No two versions of one framework are among the columns: {not_yet('compare')}.", ""]


def _pair(study: Study, old: str, new: str) -> list[str]:
    found = changes(study, old, new)
    if not found:
        return [f"Nothing that the recorded runs show differs between {old} and {new}.", ""]
    lines = [_first(study, found[0], old, new), ""]
    if found[0].seen.kind == Kind.GRADIENT:
        run = found[0].runs[0]
        ran = [line for key in (old, new) for line in quoted(run.column(key), _REDUCED, 1)]
        if ran:
            lines += ["Lines that ran between backward and optimizer step and synchronize gradients:", "", *ran, ""]
    lines += table(
        "Every change that the recorded runs show, worst first: gradients, crashes, refusals, levels, placements, "
        "settings. The proofs are those of the same models, trained in the way that the run stands for.",
        ["about", "what", old, new, "seen for", "proofs"],
        [
            [_about(item), item.seen.subject, item.seen.before, item.seen.after, _seen(study, item), _proofs(item)]
            for item in found
        ],
    )
    rows = verdicts(study, old, new)
    if rows:
        lines += table(
            "Proofs that do not end alike in the two versions, with the causes that the diagnosis named.",
            ["way to train", old, new, "models"],
            [[row.scenario, row.before, row.after, listed(f"`{name}`" for name in row.models)] for row in rows],
        )
    else:
        both = all(study.proofs.of(key) for key in (old, new))
        lines += [
            "No proof ends otherwise in one of the two versions than in the other."
            if both
            else f"Whether proofs of the two versions end alike: {not_yet('prove')}.",
            "",
        ]
    return lines


def _first(study: Study, change: Change, old: str, new: str) -> str:
    seen = change.seen
    words = f"First, **{seen.subject}**: {old}: {seen.before}; {new}: {seen.after} ({_seen(study, change)})."
    if seen.kind == Kind.GRADIENT:
        words += " Each word says what was seen to happen to the gradient over `tp` up to the optimizer step."
    return words + (f" The proofs: {change.proofs}." if change.proofs else "")


def _about(change: Change) -> str:
    return f"**{change.seen.kind.value}**" if change.seen.wrong else change.seen.kind.value


def _seen(study: Study, change: Change) -> str:
    if not change.runs:
        return "the source"
    plain = [run.question.model for run in study.of(PLAIN)]
    groups: dict[str, list[str]] = {}
    for run in change.runs:
        kind = str(run.question.layout)
        if run.question.lora:
            kind += " with LoRA"
        groups.setdefault(kind, []).append(run.question.model)
    return together(
        f"{kind}: " + (f"all {len(plain)} models" if len(plain) > 1 and names == plain else listed(names))
        for kind, names in groups.items()
    )


def _proofs(change: Change) -> str:
    if change.seen.kind in (Kind.GRADIENT, Kind.WRONG, Kind.CRASH, Kind.REFUSAL):
        return change.proofs or not_yet("prove")
    return ABSENT
