"""What the framework's own reading of the file says, as findings."""

from __future__ import annotations

from typing import Any

from tpscope.check.lines import Lines
from tpscope.check.result import Finding, Severity
from tpscope.language.keys import Complaint, KeyFinding, KeysAnswer

_SOURCE = {
    Complaint.UNKNOWN: "keys", Complaint.INVALID: "validation", Complaint.LAYOUT: "layout",
    Complaint.WARNED: "validation", Complaint.UNCHECKED: "unchecked",
}  # fmt: skip


def findings(answer: KeysAnswer, lines: Lines, data: dict[str, Any], framework: str) -> list[Finding]:
    """One finding a complaint."""
    found = [_finding(complaint, lines, data, framework) for complaint in answer.findings]
    for finding in found:
        if finding.key == "step_scheduler.global_batch_size" and answer.mesh is not None:
            step = _whole(_value(data, "step_scheduler.local_batch_size")) * _data_ranks(answer.mesh)
            finding.remedy = f"write global_batch_size: {step}, or a multiple of it"
    return found


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 1


def _data_ranks(mesh: dict[str, int]) -> int:
    ranks = 1
    for axis, size in mesh.items():
        ranks *= size if axis.startswith("dp") else 1
    return ranks


def _finding(complaint: KeyFinding, lines: Lines, data: dict[str, Any], framework: str) -> Finding:
    key = complaint.key or lines.named(complaint.message)
    evidence = [complaint.where] if complaint.where else []
    what, why, remedy, severity = _words(complaint, key, lines, data, framework)
    return Finding(
        severity, what, lines.where(key), why, remedy, evidence, key, _SOURCE[complaint.kind], complaint.raises
    )


def _words(
    complaint: KeyFinding, key: str, lines: Lines, data: dict[str, Any], framework: str
) -> tuple[str, str, str, Severity]:
    message, section, _, leaf = complaint.message, *key.rpartition(".")
    if complaint.kind is Complaint.UNCHECKED:
        return f"{key or 'the file'} was not looked at", message, "", Severity.NOTE
    if complaint.kind is Complaint.UNKNOWN and (key in lines.anchors or leaf.startswith(("x-", "."))):
        return f"{key} only holds values for other keys", message, "", Severity.NOTE
    if complaint.closest and complaint.kind in (Complaint.UNKNOWN, Complaint.INVALID):
        return _misspelt(complaint, key, section, leaf, data, framework)
    if complaint.kind is Complaint.UNKNOWN:
        # NeMo has no schema: recipes carry sections of their owners' own. Axolotl's schema says what there is.
        severity = Severity.NOTE if framework.startswith("nemo@") else Severity.WARNING
        return f"{framework} reads no key {key}", message, f"take {leaf} out, or move it to where it is read", severity
    if complaint.kind is Complaint.WARNED:
        quiet = not key or "deprecated" in message.lower()
        remedy = "" if quiet else f"do as {framework} says, or take {leaf} out"
        return f"{framework} warns", message, remedy, Severity.NOTE if quiet else Severity.WARNING
    if complaint.kind is Complaint.LAYOUT:
        return (
            f"{framework} cannot lay the ranks out",
            message,
            f"change {key or 'the sizes'} to fit the ranks",
            Severity.ERROR,
        )
    subject = key or "the file"
    remedy = f"change {subject} so that {framework}'s check passes: {_first(message)}"
    return f"{framework} refuses {subject}", message, remedy, Severity.ERROR


def _misspelt(
    complaint: KeyFinding, key: str, section: str, leaf: str, data: dict[str, Any], framework: str
) -> tuple[str, str, str, Severity]:
    severity = Severity.ERROR if complaint.raises else Severity.WARNING
    closest = complaint.closest[0]
    value = _value(data, key)
    if leaf == "_target_" or value == leaf or leaf == "pp_schedule":
        remedy = f"write {leaf}: {closest}"
        return f"{value} names nothing", complaint.message, remedy, severity
    place = f"{section}." if section else ""
    there = _value(data, f"{place}{closest}")
    if there is not None:
        remedy = f"take {leaf} out: {closest} is in the file already"
    else:
        shown = "" if isinstance(value, (dict, list)) else f" {value}"
        remedy = f"write {closest}:{shown}"
    do = "stops on it" if complaint.raises else "ignores it"
    return f"{key} is misspelt: {framework} {do}", complaint.message, remedy, severity


def _value(data: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and part.isdigit() and int(part) < len(data):
            data = data[int(part)]
        else:
            return None
    return data


def _first(message: str) -> str:
    sentence = message.split(". ")[0].rstrip(".")
    return sentence if len(sentence) < 160 else f"{sentence[:157]}..."
