"""A file with a value that cannot mean anything: bad news about the file, with what the framework says of it."""

from __future__ import annotations

import re
from typing import Any

from tpscope.check import layout, static
from tpscope.check.ask import Asked, Say, command, reading_of, target_of
from tpscope.check.lines import Lines
from tpscope.check.result import Check, Finding, Runs, Severity
from tpscope.errors import UserError


def unreadable(asked: Asked, data: dict[Any, Any], lines: Lines, error: UserError, say: Say) -> Check:
    """A file whose value at one key cannot mean anything is bad news about the file; all else is the user's input."""
    found = re.match(rf"{re.escape(str(asked.path))}, key (\S+) (.*)", str(error), re.S)
    if found is None or found[1].endswith(":"):
        raise error
    key, words = found[1], found[2]
    kind = "axolotl" if "base_model" in data else "nemo"
    target = target_of(asked, kind)
    problem, _, remedy = words.partition("; ")
    remedy = _dividing(data) or remedy
    finding = Finding(
        Severity.ERROR,
        f"{key} cannot have this value",
        lines.where(key),
        f"{key} {problem}",
        remedy,
        [],
        key,
        "read",
        True,
    )
    answer = reading_of(asked, target, data, {}, asked.world or 1, say)
    result = Check(
        str(asked.path), target.id, "", asked.world or 0, {}, Runs.NO, None, [finding], command=command(asked, target)
    )
    names = (layout.axis_key(kind, axis) for axis in ("dp_shard", "dp_replicate"))
    own = [item for item in static.findings(answer, lines, data, target.id) if item.source != "unchecked"]
    result.findings += [item for item in own if not (item.source == "layout" and key in names)]
    # What the framework raises of the same key is the evidence.
    same = next((item for item in own if item.source == "layout" and item.evidence), None)
    if same is not None:
        finding.evidence = same.evidence
        finding.why += f"; {target.id} says: {same.why}"
        result.findings = [item for item in result.findings if item is not same]
    result.environment = {"packages": answer.packages}
    return result


def _dividing(data: dict[Any, Any]) -> str:
    """Numbers of copies that divide NeMo's dp_size, where the file asks for one that does not."""
    section = data.get("distributed")
    total, copies = (
        section.get(key) if isinstance(section, dict) else None for key in ("dp_size", "dp_replicate_size")
    )
    if not isinstance(total, int) or not isinstance(copies, int) or total % copies == 0:
        return ""
    return f"write dp_replicate_size: {layout.sentence([size for size in range(1, total + 1) if total % size == 0])}"
