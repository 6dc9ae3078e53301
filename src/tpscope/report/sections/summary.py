"""Section 11: findings worst first, what changed between versions, trade-offs, and what cannot be said yet."""

from __future__ import annotations

from collections import Counter

from tpscope.language.verdict import Severity
from tpscope.report.experiments.price_rows import Price
from tpscope.report.facts import HARMFUL, Merged, Study, findings, harm, joined_subjects, merged
from tpscope.report.runs import PLAIN
from tpscope.report.sections import prices
from tpscope.report.sections.guidance import guidance
from tpscope.report.sections.proofs import proved
from tpscope.report.text import listed, not_yet, place, table, together

TITLE = "Summary and recommendations"
TRAINED = ("accumulate", "clip", "step", "resume")
_SEVERITIES = {
    Severity.WRONG: (
        "columns that compute alike treat a gradient or a tie differently, and nothing is raised; which of them is "
        "right, prove will tell"
    ),
    Severity.BLOCKS: "it does not get to an optimizer step",
    Severity.IGNORED: "a setting has no effect, and nothing is raised",
    Severity.COST: "memory or traffic that another column does not spend",
    Severity.NOTE: "different, with no harm known",
}


def section(study: Study) -> list[str]:
    """Counts, findings, who is clear for which model, then and now, trade-offs, prices, guidance."""
    once = merged(findings(study))
    lines = ["### What the words weigh", ""]
    lines += table(
        "Severities that the comparison gives; a finding is about one framework, and counts once however many "
        "models show it.",
        ["severity", "meaning", *study.frameworks],
        [
            [severity.value, words, *(str(_count(once, severity, key)) for key in study.frameworks)]
            for severity, words in _SEVERITIES.items()
        ],
    )
    lines += ["### Findings, worst first", ""]
    lines += table(
        "Differences that are about one framework, in the words of the comparison, put together over all recorded "
        "questions; figures in the words are those of the first question named.",
        ["severity", "framework", "subject", "what it does", "seen for"],
        [_row(study, item) for item in once if item.severity in HARMFUL],
    )
    lines += ["### Clear of findings", ""]
    lines += table(
        f"At TP={study.tp}, by rule: clear where the framework answered and no finding of the table above is about "
        "it for that model; else how many there are, by severity. "
        '"Clear" says that nothing was found on these paths, not that the sharded model was proven equal.',
        ["model", *study.frameworks],
        [
            [f"`{run.question.model}`", *(_clear(study, run.question.model, key) for key in study.frameworks)]
            for run in study.of(PLAIN)
        ],
    )
    lines += proved(study, TRAINED, "a model as it is trained: with accumulation, clipping, steps, saving")
    lines += ["### Then and now", ""]
    lines += _then_and_now(study)
    lines += ["### Trade-offs", ""]
    lines += table(
        f"Differences between {' and '.join(study.newest())} that cost memory or traffic or merely differ, for all "
        f"models at TP={study.tp} where both answered.",
        ["severity", "subject", *study.newest(), "models"],
        _trade_offs(study),
    )
    lines += table(
        "What each of them spends, in the words of the comparison; figures are those of the first question named.",
        ["severity", "framework", "subject", "what it does", "seen for"],
        [_row(study, item) for item in once if item.severity == Severity.COST and item.framework in study.newest()],
    )
    lines += prices.section(study)
    lines += ["### Open to improvement", ""]
    lines += [
        f"Every row of the findings table about {' or '.join(study.newest())} is one: it names what happens and, "
        "where something was raised, the line. Costs that one of them could save by doing as the other does are "
        "the rows of severity cost above.",
        "",
        "### Guidance",
        "",
        *guidance(study),
        f"- Moving a configuration from NeMo AutoModel to Axolotl, and back: {not_yet('migrate')}.",
        f"- Predicted memory, traffic and time: {_costs(study)}. Measured on GPUs: {_timed(study)}.",
        f"- Whether what is clear here is also equal: {_proofs(study)}.",
        "",
    ]
    return lines


def _costs(study: Study) -> str:
    return "the tables of the performance prediction matrix above" if study.measured(Price) else not_yet("price")


def _timed(study: Study) -> str:
    return "the table beside the predictions above" if prices.pairs(study) else not_yet("bench")


def _proofs(study: Study) -> str:
    if not study.proofs.cells:
        return not_yet("prove")
    return "the proofs above and of sections 4, 6, 7 and 8 say so for small models of the same structure, on a CPU"


def _count(once: list[Merged], severity: Severity, key: str) -> int:
    return sum(item.severity == severity and item.framework == key for item in once)


def _row(study: Study, item: Merged) -> list[str]:
    return [item.severity.value, item.framework, item.subject, item.words, _seen(study, item)]


def _seen(study: Study, item: Merged) -> str:
    plain = [run.question.model for run in study.of(PLAIN)]
    shown = [name for name in item.runs if name in plain]
    others = [name for name in item.runs if name not in plain]
    words = [f"all {len(plain)} models at TP={study.tp}"] if len(shown) == len(plain) > 1 else shown
    if len(others) > 3:
        others = [*others[:2], f"{len(others) - 2} more questions"]
    return together([listed(words), *others] if words else others)


def _clear(study: Study, model: str, key: str) -> str:
    run = study.plain(model)
    column = run.column(key) if run else None
    if run is None or column is None:
        return not_yet("compare")
    counts = Counter(item.severity for item in harm(run, key))
    if not counts:
        return "clear"
    return ", ".join(f"{counts[severity]} {severity.value}" for severity in HARMFUL if counts[severity])


def _then_and_now(study: Study) -> list[str]:
    lines: list[str] = []
    for versions in study.families().values():
        if len(versions) < 2:
            continue
        old, new = versions[0], versions[-1]
        rows = []
        for run in study.of(PLAIN):
            before, after = ([(item.severity, item.subject) for item in harm(run, key)] for key in (old, new))
            levels = [
                column.selection.level or column.status.value if (column := run.column(key)) else "not asked"
                for key in (old, new)
            ]
            rows.append([
                f"`{run.question.model}`", " to ".join(dict.fromkeys(levels)),
                _brief([item for item in before if item not in after]),
                _brief([item for item in after if item not in before]),
                _brief([item for item in after if item in before]),
            ])  # fmt: skip
        lines += table(
            f"{old} beside {new} at TP={study.tp}: the level of the plan (or the answer), and findings that went, "
            "came and stayed.",
            ["model", "level", "gone", "new", "still there"],
            rows,
        )
    return lines or [f"{not_yet('compare').capitalize()}.", ""]


def _brief(items: list[tuple[Severity, str]]) -> str:
    groups: dict[Severity, list[str]] = {}
    for severity, subject in items:
        groups.setdefault(severity, []).append(subject)
    return together(f"{severity.value}: {joined_subjects(subjects)}" for severity, subjects in groups.items())


def _trade_offs(study: Study) -> list[list[str]]:
    keys = study.newest()
    groups: dict[tuple[str, ...], list[str]] = {}
    for run in study.of(PLAIN):
        for difference in run.differences:
            by = "gathered by " if difference.subject == "logits" else ""
            values = [by + difference.values[key] if difference.values.get(key) else "" for key in keys]
            mild = difference.severity in (Severity.COST, Severity.NOTE)
            if mild and all(values) and len(set(values)) > 1 and len(keys) > 1:
                facts = (difference.severity.value, difference.subject, *(place(value) for value in values))
                groups.setdefault(facts, []).append(f"`{run.question.model}`")
    order = [severity.value for severity in Severity]
    return [
        [*facts, listed(models)]
        for facts, models in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    ]
