"""Proofs as JUnit XML: one test case a case, so that a CI shows them as its own tests."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from tpscope.language.proof import ProofAnswer
from tpscope.language.verdict import Verdict
from tpscope.prove.result import BAD, Proofs

# What XML 1.0 cannot hold, escaped or not.
_CONTROL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(proofs: Proofs) -> str:
    """The document. Different is a failure, crashed an error, refused, unsupported and inconclusive are skipped."""
    counts = proofs.counts()
    suite = ElementTree.Element(
        "testsuite",
        name="tpscope prove",
        tests=str(len(proofs.cases)),
        failures=str(counts.get(Verdict.DIFFERENT, 0)),
        errors=str(counts.get(Verdict.CRASHED, 0)),
        skipped=str(sum(count for verdict, count in counts.items() if verdict not in (*BAD, Verdict.EQUAL))),
        time=f"{sum(case.seconds for case in proofs.cases):.3f}",
    )
    for case in proofs.cases:
        suite.append(_case(case))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _case(case: ProofAnswer) -> ElementTree.Element:
    element = ElementTree.Element(
        "testcase",
        classname=f"{case.framework}.{case.model}",
        name=f"{case.scenario} tp={case.tp}",
        time=f"{case.seconds:.3f}",
    )
    if case.verdict == Verdict.EQUAL:
        return element
    tag = {Verdict.DIFFERENT: "failure", Verdict.CRASHED: "error"}.get(case.verdict, "skipped")
    said = ElementTree.SubElement(element, tag, message=_clean(case.sentence or case.verdict.value))
    if tag != "skipped":
        said.set("type", case.verdict.value)
    said.text = _clean("\n".join(_details(case)))
    return element


def _details(case: ProofAnswer) -> list[str]:
    lines = [f"{diagnosis.cause.value}: {diagnosis.sentence}" for diagnosis in case.diagnosis]
    lines += [f"{line.path}:{line.line}: {line.text}" for found in case.diagnosis for line in found.evidence]
    if case.caveat:
        lines.append(case.caveat)
    if case.error is not None and case.error.where is not None:
        lines.append(f"{case.error.where.path}:{case.error.where.line}: {case.error.where.text}")
    for rank, trace in case.rank_errors.items():
        lines += [f"rank {rank}:", trace.strip()]
    return lines


def _clean(text: str) -> str:
    return _CONTROL.sub("\ufffd", text)
