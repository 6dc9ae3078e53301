"""A verdict that nothing explains may hang on the order of a set, that is on PYTHONHASHSEED: ask under other seeds."""

from __future__ import annotations

import re

from tpscope.frameworks.merge import NO_ANSWER
from tpscope.language.proof import Cause, Diagnosis, ProofAnswer
from tpscope.language.verdict import Verdict


def may_matter(answer: ProofAnswer) -> bool:
    """True for what is different and unexplained, and for a rank that failed or waited where others did not."""
    if answer.error is not None and answer.error.kind == "ImportError":
        return False
    causes = {diagnosis.cause for diagnosis in answer.diagnosis}
    if answer.verdict == Verdict.DIFFERENT:
        return causes <= {Cause.UNKNOWN, Cause.DRIFT}
    if answer.verdict == Verdict.CRASHED:
        alone = bool(answer.error and answer.error.kind == "ProcessDied") or _uneven(answer)
        return alone or (bool(causes) and causes <= {Cause.UNKNOWN, Cause.DRIFT})
    return False


def _uneven(answer: ProofAnswer) -> bool:
    """True if ranks ended in different ways, memory addresses apart."""
    last = {re.sub(r"\d{12,}", "", trace.strip().rpartition("\n")[2]) for trace in answer.rank_errors.values()}
    return len(last) > 1


def same(found: ProofAnswer, alike: ProofAnswer) -> bool:
    """True if a run with one seed on every rank came out as the first one did, parameter by parameter: what differs
    then does so without any order of sets to differ over."""
    return found.verdict == alike.verdict and _differing(found) == _differing(alike)


def _differing(answer: ProofAnswer) -> list[tuple[str, str]]:
    return [(row.name, f"{row.error or 0:.3g}") for row in answer.parameters if not row.equal]


def judged(found: ProofAnswer, own: list[int], others: list[tuple[ProofAnswer, list[int]]]) -> ProofAnswer:
    """The answer with what other seeds gave; if a verdict changed with them, that is the first cause."""
    runs = [(found, own), *others]
    found.measured["hash_seeds"] = [{"seeds": list(used), "verdict": run.verdict.value} for run, used in runs]
    if not _given_up(found):
        # A run that was waited for in vain may only have been slower than the first.
        others = [(run, used) for run, used in others if not _given_up(run)]
        runs = [(found, own), *others]
    if len({run.verdict for run, _ in runs}) == 1:
        return found
    told = "; ".join(f"{run.verdict.value} with {_spelled(used)}" for run, used in runs)
    alike = others[0][0].verdict
    found.diagnosis.insert(
        0,
        Diagnosis(
            Cause.HASH_SEED,
            "the order of a set, which differs from rank to rank",
            [row.name for row in found.parameters if not row.equal],
            "",
            f"the verdict depends on PYTHONHASHSEED: {told}",
            alike == Verdict.EQUAL,
            mend="start every rank with the same PYTHONHASHSEED",
        ),
    )
    return found


def _given_up(answer: ProofAnswer) -> bool:
    """True if the time of a case was over before its ranks had ended."""
    return answer.error is not None and answer.error.message.startswith(NO_ANSWER)


def _spelled(used: list[int]) -> str:
    if len(set(used)) == 1:
        return f"seed {used[0]} on every rank"
    return f"seeds {', '.join(map(str, used))}"
