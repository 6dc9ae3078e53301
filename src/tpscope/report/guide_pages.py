"""docs/guide.md: the rules of a right plan, each with a plan that breaks it and the recorded proof that catches it."""

from __future__ import annotations

from collections.abc import Sequence

from tpscope import bugs
from tpscope.language.verdict import Verdict
from tpscope.prove.faults import CARRIER
from tpscope.prove.selftest import MutationRow
from tpscope.render.markdown import table
from tpscope.report import guide, guide_plans
from tpscope.report.guide import Guide, Released, Rule
from tpscope.report.guide_rows import SELFTEST, Evidence
from tpscope.report.prove_rows import Cell
from tpscope.report.text import ABSENT, anchor, listed

EXACT = 1e-12
SELF_TEST = f"tpscope prove --self-test --full --json {SELFTEST}"
RECORD = "python -m tpscope.report.guide_record"
NOT_RECORDED = "not recorded yet"


def page(rules: Guide, evidence: Evidence) -> str:
    """The whole page: a pure function of guide.toml, the bug book and the recorded rows."""
    titles = [(rules.test.title, "")]
    titles += [(_title(number, rule), rule.title) for number, rule in enumerate(rules.rule, 1)]
    lines = [
        "# How to write a right tensor-parallel plan",
        "",
        "<!-- Made from src/tpscope/report/guide.toml, bugs/ and results/ by `python -m tpscope.report.pages`; edits "
        "here are lost and fail `make check`. -->",
        "",
        f"{len(rules.rule)} rules. Each is followed by a plan that keeps it and by plans that break it, with the proof "
        "that catches them. Broken plans are of two kinds. *Faults* are put into a plan that is right, on real ranks, "
        f"by [`tpscope prove --self-test`](prove.md#the-self-test), which must find and name each. *Released* ones are "
        "framework versions that anyone can install, known to the [bug book](bugs.md). The sentences of a rule are "
        "written; plans, verdicts, causes and figures are recorded, and each has the command that repeats it.",
        "",
        *_how_to_read(),
        *(f"- [{title}](#{anchor(title)})" + (f": {text}" if text else "") for title, text in titles),
        "",
        *_test(rules, evidence),
    ]
    for number, rule in enumerate(rules.rule, 1):
        lines += _rule(number, rule, evidence)
    return "\n".join([*lines, *_end(rules, evidence)]).rstrip("\n") + "\n"


def _how_to_read() -> list[str]:
    return [
        "In a plan, `Replicate -> Shard(2)` is the layout that comes in and goes out: whole on every rank, or cut over "
        "that dimension of `[batch, seq, hidden]`. Behind it stand the collectives of the forward and the backward, "
        "and what is done to the parameter's gradient. Plans are shown in normal form, so that those of two frameworks "
        "compare: `colwise` cuts a Linear's output features, `rowwise` its input features.",
        "",
    ]


def _title(number: int, rule: Rule) -> str:
    return f"{number}. {rule.name}"


def _test(rules: Guide, evidence: Evidence) -> list[str]:
    lines = [f"## {rules.test.title}", "", _prose(rules.test.why), ""]
    rows = []
    cells = [row for row in evidence.swept if isinstance(row, Cell) and row.verdict is Verdict.DIFFERENT]
    judged = [cell for cell in cells if cell.loss_error is not None]
    if judged:
        exact = sum((cell.loss_error or 0.0) < EXACT for cell in judged)
        rows.append(["released versions, in the sweep of `results/prove.jsonl`", str(len(judged)), str(exact)])
    if evidence.selftest:
        found = [row for row in evidence.selftest.mutations if row.found]
        exact = sum("the loss is exact" in row.sentence for row in found)
        rows.append([f"faults of the self-test, in `{SELFTEST}`", str(len(found)), str(exact)])
    if not rows:
        return [*lines, f"How many recorded differences the loss shows is {NOT_RECORDED} (`{SELF_TEST}`).", ""]
    head = ["recorded proofs", "different, with a loss to compare", "of these, the loss is exact"]
    return [*lines, "What the loss of the first step would have said:", "", *table(head, rows), ""]


def _rule(number: int, rule: Rule, evidence: Evidence) -> list[str]:
    lines = [f"## {_title(number, rule)}", "", f"**{rule.title}**", "", _prose(rule.why), ""]
    if rule.faults:
        lines += _fault(rule, evidence)
    for item in rule.released:
        lines += _released(rule, item, evidence)
    return lines


def _prose(text: str) -> str:
    return " ".join(text.split())


def _fault(rule: Rule, evidence: Evidence) -> list[str]:
    plan = evidence.plan(guide.broken_plan(rule))
    row = evidence.shown(rule)
    kept = guide_plans.rows(plan, rule.shows) if plan else []
    lines = [f"**Kept** by {CARRIER} for `{rule.model}`" + (f" (`{plan.command}`):" if plan else ":"), ""]
    if plan is None:
        lines += [f"{NOT_RECORDED} (`{RECORD}`).", ""]
    elif kept:
        lines += _block("text", guide_plans.lines(kept))
    else:
        lines += [
            f"No rule of it names {listed(f'`{word}`' for word in rule.shows)}: they are whole on every rank.",
            "",
        ]
    lines += [f"**Broken**: {_does(rule.faults[0])}.", ""]
    if row is None:
        lines += [f"The proof is {NOT_RECORDED} (`{SELF_TEST}`).", ""]
    else:
        lines += _block("diff", guide_plans.broken(kept, row.places, row.does))
        lines += ["**Caught**:", "", *_block("text", _caught(row, evidence))]
    rows = [_of_kind(kind, evidence) for kind in rule.faults]
    head = ["fault", "what is broken", "way of training", "must be named", "models", "found", "named"]
    return [*lines, "Over all models of the self-test:", "", *table(head, rows), ""]


def _does(kind: str) -> str:
    found = guide.fault(kind)
    return found.does if found else kind


def _caught(row: MutationRow, evidence: Evidence) -> list[str]:
    control = evidence.control(row)
    command = f"tpscope prove --self-test --full {row.model}"
    lines = [f"$ {command}", f"{row.framework}  {row.model}  {row.scenario}"]
    lines += [f"  unbroken  {control.verdict.value.upper()}: {control.sentence}"] if control else []
    lines += [f"  {row.kind}  {'DIFFERENT' if row.found else 'NOT FOUND'}: {row.sentence}"]
    where = "; ".join("every parameter" if place == "*" else place for place in row.where)
    named = f"named {listed(cause.value for cause in row.causes)} at {where}"
    return [*lines, f"    {named}" if row.causes else "    no cause named"]


def _of_kind(kind: str, evidence: Evidence) -> list[str]:
    found, rows = guide.fault(kind), evidence.broken(kind)
    assert found is not None, kind
    counts = (
        [str(len(rows)), str(sum(row.found for row in rows)), str(sum(row.named for row in rows))]
        if rows
        else [NOT_RECORDED, ABSENT, ABSENT]
    )
    return [f"`{kind}`", found.does, found.scenario, found.cause.value, *counts]


def _released(rule: Rule, item: Released, evidence: Evidence) -> list[str]:
    bug = next(bug for bug in bugs.load() if bug.id == item.bug)
    fixed = f"fixed in {bug.framework} {bug.fixed}" if bug.fixed else "not fixed in any version that was seen"
    lines = [f"**Released**: {bug.title} ([{bug.id}](bugs.md#{anchor(bug.id)}), {fixed}).", ""]
    plans = [evidence.plan(wanted) for wanted in guide.released_plans(item)]
    broken, right = plans[0], plans[1] if item.right else None
    if broken is None or (item.right and right is None):
        lines += [f"Its plan is {NOT_RECORDED} (`{RECORD}`).", ""]
    else:
        words, shown = guide_plans.beside(right, broken, rule.shows)
        kept = f"**Kept** by {item.right}, **broken** by" if item.right else "**Broken** by"
        lines += [f"{kept} {item.framework} for `{item.model}`: {words}", "", *_block("diff", shown)]
    cells = [
        evidence.proof(framework, item.model, item.scenario, item.tp)
        for framework in filter(None, (item.right, item.framework))
    ]
    command = ["$ tpscope prove", item.model, *(f"--with {name}" for name in (item.right, item.framework) if name)]
    command += [f"--scenarios {item.scenario}"] if item.scenario != "plain" else []
    shown = [" ".join([*command, f"--tp {item.tp}"])]
    for framework, cell in zip(filter(None, (item.right, item.framework)), cells, strict=True):
        shown += _proof(cell) if cell else [f"{framework}  {NOT_RECORDED}"]
    return [*lines, "**Caught**:", "", *_block("text", shown)]


def _proof(cell: Cell) -> list[str]:
    """A recorded proof, as prove prints its head and its causes."""
    said = cell.said.partition(": ")[0]
    raised = f"{said}: " if said and cell.verdict is Verdict.CRASHED else ""
    lines = [f"{cell.framework}  {cell.model}  {cell.scenario}  tp={cell.tp}   {cell.verdict.value.upper()}"]
    lines += [f"  {raised}{cell.sentence}"]
    lines += [f"  {cell.at}"] if cell.at else []
    for item in cell.named:
        lines += [f"  {item.cause.value}" + ("  (repaired: with the mend the case is equal)" if item.repaired else "")]
        lines += [f"    {text}" for text in (item.sentence, item.at, f"mend: {item.mend}" if item.mend else "") if text]
    return lines


def _block(language: str, lines: Sequence[str]) -> list[str]:
    return [f"```{language}", *lines, "```", ""] if lines else []


def _end(rules: Guide, evidence: Evidence) -> list[str]:
    lines = ["## What is no rule", ""]
    lines += [f"- `{item.fault}` ({_does(item.fault)}): {item.why}." for item in rules.not_a_rule]
    lines += ["", "## What this rests on", ""]
    made = evidence.selftest
    if made is None:
        lines += [f"- The self-test is {NOT_RECORDED}: `{SELF_TEST}`."]
    else:
        packages = listed(f"{name} {version}" for name, version in sorted(made.packages.items()))
        form = "full" if made.full else "small"
        found, named = sum(row.found for row in made.mutations), sum(row.named for row in made.mutations)
        lines += [
            f"- The self-test in its {form} form: {len(made.mutations)} faults, {found} found, {named} named; "
            f"{len(made.controls)} unbroken controls, {len(made.alarms)} alarms; with {packages}."
        ]
    lines += [f"- Plans, and proofs that no sweep has: `{RECORD}`, into `results/guide.jsonl`."]
    lines += ["- All other proofs of released versions: the sweep, in [the matrix](matrix.md)."]
    lines += ["- Small models of the same structure in float64, on a CPU over gloo: equal means equal on these paths."]
    missing = [rule.id for rule in rules.rule if not evidence.catches(rule)]
    return [*lines, *([f"- No proof is recorded yet of: {listed(missing)}."] if missing else [])]
