"""Entries of the bug book that bite a file."""

from __future__ import annotations

import re
from typing import Any

from tpscope.bugs import Bug, load
from tpscope.check.layout import tp_key
from tpscope.check.lines import Lines
from tpscope.check.result import Finding, Severity
from tpscope.language.layout import Layout
from tpscope.language.proof import ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.models.fields import Fields
from tpscope.models.spec import Intent, ModelSpec

_CONDITION = re.compile(r"(?P<name>[\w.]+)\s*(?:(?P<sign>[>=:<])\s*(?P<other>.+))?")


def matching(
    packages: dict[str, str], family: str, version: str, spec: ModelSpec, layout: Layout, implied: dict[str, str],
    data: dict[str, Any],
) -> list[Bug]:  # fmt: skip
    """Bugs of this framework at this version, or of a package that it runs on, whose conditions the file meets."""
    if layout.tp < 2:
        return []
    versions = {**packages, family: version}
    values = _values(data, spec, layout)
    return [
        bug
        for bug in load()
        if bug.framework in versions
        and bug.covers(versions[bug.framework])
        and bug.reaches(f"{family}@{version}")
        and (not bug.model_types or spec.model_type in bug.model_types)
        and (not bug.scenario or set(bug.scenario.split("+")) <= {"plain", *implied})
        and all(_holds(setting, values, implied.get(bug.scenario, "")) for setting in bug.settings)
    ]


def _values(data: dict[str, Any], spec: ModelSpec, layout: Layout) -> dict[str, Any]:
    """What the conditions of an entry speak of: keys of the file by their last name, of the config, and the tp size."""
    found: dict[str, Any] = dict(spec.config)
    for path, value in Fields(data, "").leaves():
        found[path.rpartition(".")[2]] = value
        if path.endswith("_target_") and isinstance(value, str):
            found[value.rpartition(".")[2]] = True
    return {**found, "tp_size": layout.tp, "tensor_parallel_size": layout.tp}


def _holds(setting: str, values: dict[str, Any], implied_by: str) -> bool:
    """One condition of an entry: `name`, `name > 1`, `name = 4`, `name: lora`, `name > other_name`."""
    found = _CONDITION.fullmatch(setting.strip())
    if found is None:
        return False
    name, sign, other = found["name"], found["sign"], (found["other"] or "").strip()
    if sign is None:
        # A setting whose default already asks for the scenario need not stand in the file.
        return bool(values.get(name)) or implied_by.rpartition(".")[2] == name
    left, right = values.get(name), values.get(other, other)
    if sign in (":", "="):
        return str(left) == str(right)
    try:
        return float(left) > float(right) if sign == ">" else float(left) < float(right)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def apply(
    bugs: list[Bug],
    found: list[Finding],
    cases: list[ProofAnswer],
    implied: dict[str, str],
    intent: Intent,
    lines: Lines,
) -> list[Finding]:
    """Name the entry where a proof or a refusal shows it already; a finding of its own where nothing was proved."""
    verdicts = {case.scenario: case for case in cases}
    more = []
    for bug in bugs:
        scenario = bug.scenario or "plain"
        case = verdicts.get(scenario)
        if case is not None and case.verdict is Verdict.EQUAL:
            continue
        told = f"bugs/{bug.id}, {bug.link or 'not reported'}"
        shown = [finding for finding in found if _shows(finding, bug, scenario)]
        if shown:
            for finding in shown[:1]:
                finding.why = f"{finding.why.rstrip('.')}. Known: {bug.title} ({told})"
                if bug.fixed and f"@{bug.fixed}" not in finding.remedy:
                    mend = f"take {bug.framework} {bug.fixed}, which has it mended"
                    finding.remedy = f"{finding.remedy}; or {mend}" if finding.remedy else mend
            continue
        if case is not None:
            continue
        key = tp_key(intent.kind)
        by = implied.get(scenario, "")
        remedy = f"write {key.rpartition('.')[2]}: 1" + (f", or leave {by} out" if by in lines.numbers else "")
        if bug.fixed:
            remedy = f"take {bug.framework} {bug.fixed}, which has it mended; or {remedy}"
        key = by if by in lines.numbers else key
        more.append(
            Finding(
                Severity.WARNING, f"known bug: {bug.title}", lines.where(key), f"{bug.what} ({told})", remedy, [], key,
                "bugs",
            )
        )  # fmt: skip
    return more


def _shows(finding: Finding, bug: Bug, scenario: str) -> bool:
    """True if a finding of a run is of the kind that the entry expects, in its scenario."""
    if finding.source not in ("prove", "compare", "loop") or finding.severity is Severity.NOTE:
        return False
    causes = {item.cause for item in bug.own if item.cause}
    verdicts = {item.verdict for item in bug.own}
    shown = finding.what.rpartition(" ")[2].split(",")
    if causes:
        return any(f": {cause} in" in finding.what for cause in causes) and scenario in shown
    if not finding.stops or not verdicts & {"crashed", "refused"}:
        return False
    if finding.source == "prove":
        return scenario in shown
    # compare knows no scenarios: what it saw must speak of the one that the entry is about.
    text = " ".join([finding.why, *(line.text for line in finding.evidence)]).lower()
    return scenario == "plain" or scenario[:3] in text
