"""Proofs of what the file asks for, and what they say as findings."""

from __future__ import annotations

from dataclasses import replace

from tpscope.check.layout import tp_key
from tpscope.check.lines import Lines
from tpscope.check.result import Finding, Severity
from tpscope.language.layout import Layout
from tpscope.language.proof import Cause, Diagnosis, ProofAnswer, Scenario
from tpscope.language.verdict import Verdict
from tpscope.models.spec import Intent, ModelSpec
from tpscope.prove.scenarios import parse

MOST_TP = 4
MOST_RANKS = 8
_AXES = {"fsdp": 2, "cp": 2, "pp": 2}
# In the plain case a tied model is tied already.
_IN_PLAIN = ("tied",)


def cases(names: list[str], layout: Layout, intent: Intent) -> tuple[list[tuple[Scenario, int]], list[str]]:
    """Scenarios with the tp size to prove them at: plain, each implied one, and all of them together; and notes."""
    if layout.tp < 2:
        return [], []
    notes = []
    tp = layout.tp
    if tp > MOST_TP:
        tp = 2
        notes.append(f"tp={layout.tp} of the file is proved at tp=2: a rank is a process, and this is one machine")
    alone = ["plain", *(name for name in names if name not in _IN_PLAIN)]
    together, left_out, ranks = [], [], tp
    for name in names:
        size = _AXES.get(name, 1)
        if ranks * size > MOST_RANKS:
            left_out.append(name)
            continue
        ranks *= size
        together.append(name)
    if left_out:
        notes.append(
            f"the combination is proved without {', '.join(left_out)}: together they take over {MOST_RANKS} ranks"
        )
    wanted = list(dict.fromkeys([*alone, "+".join(together) or "plain"]))
    found = []
    for name in wanted:
        scenario = _own(parse(name), intent)
        found.append((scenario, 2 if scenario.layout(tp).world > MOST_RANKS else tp))
    return found, notes


def _own(scenario: Scenario, intent: Intent) -> Scenario:
    """A scenario with the file's own targets of LoRA and its place of dropout, at a small rank: which modules it adapts
    decides what is cut."""
    if scenario.lora is None or intent.lora is None:
        return scenario
    own = intent.lora
    lora = replace(scenario.lora, targets=own.targets or scenario.lora.targets, dropout_position=own.dropout_position)
    return replace(scenario, lora=lora)


def findings(answers: list[ProofAnswer], implied: dict[str, str], intent: Intent, lines: Lines) -> list[Finding]:
    """One finding for each cause, with the scenarios that show it; crashes and refusals once each."""
    found: dict[tuple[str, ...], Finding] = {}
    for answer in answers:
        where = _key(answer.scenario, implied, intent)
        for key, finding in _of(answer, where, lines):
            if key in found:
                found[key].what = _joined(found[key].what, answer.scenario)
            else:
                found[key] = finding
    return list(found.values())


def _key(scenario: str, implied: dict[str, str], intent: Intent) -> str:
    first = scenario.split("+")[0]
    key = implied.get(first, "")
    return key if key and not key.startswith("config ") else tp_key(intent.kind)


def _of(answer: ProofAnswer, key: str, lines: Lines) -> list[tuple[tuple[str, ...], Finding]]:
    caveat = f" ({answer.caveat})" if answer.caveat else ""
    if answer.verdict is Verdict.DIFFERENT:
        causes = answer.diagnosis or [Diagnosis(Cause.UNKNOWN, "", [], "", answer.sentence, False)]
        return [
            (
                ("different", cause.cause.value, *sorted(cause.parameters)[:6]),
                Finding(
                    Severity.ERROR, f"it would train another model: {cause.cause.value} in {answer.scenario}",
                    lines.where(key), f"{cause.sentence}{caveat}", cause.mend, list(cause.evidence), key, "prove",
                ),
            )
            for cause in causes
        ]  # fmt: skip
    if answer.verdict in (Verdict.CRASHED, Verdict.REFUSED):
        verb = "refuses" if answer.verdict is Verdict.REFUSED else "fails in"
        evidence = [answer.error.where] if answer.error and answer.error.where else []
        place = f"{evidence[0].path}:{evidence[0].line}" if evidence else (answer.error.kind if answer.error else "")
        finding = Finding(
            Severity.ERROR, f"{answer.framework} {verb} {answer.scenario}", lines.where(key),
            f"{answer.sentence}{caveat}", "", evidence, key, "prove", True,
        )  # fmt: skip
        return [((answer.verdict.value, place), finding)]
    if answer.verdict in (Verdict.UNSUPPORTED, Verdict.INCONCLUSIVE):
        finding = Finding(
            Severity.NOTE, f"no proof of {answer.scenario}", lines.where(key), answer.sentence, "", [], key, "prove"
        )
        return [((answer.verdict.value, answer.sentence), finding)]
    return []


def _joined(what: str, scenario: str) -> str:
    shown = what.rpartition(" ")[2]
    if "+" in scenario or scenario in shown.split(","):
        return what
    return f"{what},{scenario}"


def verdict(answers: list[ProofAnswer]) -> Verdict | None:
    """That of the combination that the file asks for; a worse one of a part of it counts, and None without proofs."""
    if not answers:
        return None
    order = [Verdict.DIFFERENT, Verdict.CRASHED, Verdict.REFUSED]
    verdicts = [answer.verdict for answer in answers]
    for bad in order:
        if bad in verdicts:
            return bad
    last = answers[-1].verdict
    if last in (Verdict.UNSUPPORTED, Verdict.INCONCLUSIVE) and Verdict.EQUAL in verdicts:
        return last
    return last


def describes(spec: ModelSpec) -> str:
    """The model as the cases name it."""
    return spec.name
