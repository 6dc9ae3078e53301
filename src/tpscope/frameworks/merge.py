"""From how each rank of a case ended to one answer: the framework's, or what went wrong on which rank."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tpscope.language.answer import Failure
from tpscope.language.proof import ProofAnswer, ProofRequest
from tpscope.language.verdict import Verdict

# What a rank raises because another one is gone: a consequence, never the cause.
_PEER_GONE = re.compile(
    r"closed by peer|Connection reset|Connection refused|Broken pipe|Timed out waiting|wait timeout|"
    r"Socket Timeout|connectFullMesh|Read error|Write error"
)
# How the words begin that a case is given up with.
NO_ANSWER = "no answer within"
_THREAD = re.compile(r"(?:Current thread|Thread) 0x")
_FRAME = re.compile(r'File "(?P<path>[^"]+)", line (?P<line>\d+) in (?P<symbol>\S+)')


@dataclass(frozen=True)
class End:
    """How one rank of a case ended.

    `how`: its exit code (negative: the signal that killed it), `timeout`, `aborted` (stopped because another rank had
    failed) or `lost`. `at`: when, in ns. `stack`: where it was when it was stopped.
    """

    rank: int
    how: int | str
    answer: ProofAnswer | None
    at: int
    stack: str
    log: str
    failed: bool

    @property
    def follows(self) -> bool:
        """True if this rank failed only because another had."""
        if self.how == "aborted":
            return True
        error = self.answer.error if self.answer else None
        return error is not None and bool(_PEER_GONE.search(error.message))

    @property
    def trace(self) -> str:
        """The rank's own account: what it raised, where it waited, or the end of its log."""
        if self.answer is not None and self.answer.error is not None:
            return self.answer.error.traceback or self.answer.error.message
        return self.stack or self.log


def not_started(request: ProofRequest, rank: int, code: int | None, log: str) -> ProofAnswer:
    """The answer where a rank process died while it imported the framework."""
    last = _last(log) or "it said nothing"
    said = f"the process of rank {rank} ended with exit code {code} while it imported the framework: {last}"
    return _crashed(request, said, Failure("ImportError", said, "import", None, log), {str(rank): log})


def merge(request: ProofRequest, ends: list[End], roots: Sequence[Path]) -> ProofAnswer:
    """Rank 0's answer, if every rank has one and rank 0's is as bad as any; else the failure that came first."""
    by_rank = {end.rank: end for end in ends}
    failed = [end for end in ends if end.failed]
    if not failed:
        answer = by_rank[0].answer
        assert answer is not None
        return answer
    traces = {str(end.rank): end.trace for end in sorted(failed, key=lambda end: end.rank)}
    causes = [end for end in failed if not end.follows] or failed
    first = min(causes, key=lambda end: end.at)
    if first.how == "timeout":
        return _timed_out(request, ends, roots, traces)
    if isinstance(first.how, str) or first.how != 0 or first.answer is None:
        return _died(request, first, ends, roots, traces)
    return _raised(request, first, by_rank, roots, traces)


def _raised(
    request: ProofRequest, first: End, by_rank: dict[int, End], roots: Sequence[Path], traces: dict[str, str]
) -> ProofAnswer:
    """Some rank answered that it failed. All alike: rank 0's answer. Else one that others did not see coming."""
    zero = by_rank[0]
    alike = [end for end in by_rank.values() if end.answer is not None and end.failed and not end.follows]
    if len(alike) == len(by_rank) and zero.answer is not None:
        # What all ranks decline in the same words needs no list of ranks.
        zero.answer.rank_errors = traces if zero.answer.verdict == Verdict.CRASHED else {}
        return zero.answer
    assert first.answer is not None
    answer = first.answer
    words = answer.error.message if answer.error else answer.sentence
    did = "refused" if answer.verdict == Verdict.REFUSED else "failed"
    answer.verdict = Verdict.CRASHED
    others = _waiting([end for end in by_rank.values() if end.how == "aborted"], roots)
    if not others:
        others = "the other ranks went on" if not zero.failed else "the other ranks lost the connection"
    answer.sentence = f"rank {first.rank} {did} alone ({words}); {others}"
    answer.rank_errors = traces
    return answer


def _died(
    request: ProofRequest, first: End, ends: list[End], roots: Sequence[Path], traces: dict[str, str]
) -> ProofAnswer:
    said = f"rank {first.rank} {_manner(first.how)}"
    if isinstance(first.how, int) and first.how >= 0 and (last := _last(first.log)):
        said += f": {last}"
    if others := _waiting([end for end in ends if end.how == "aborted"], roots):
        said += f"; {others}"
    return _crashed(request, said, Failure("ProcessDied", said, "run", None, first.log), traces)


def _last(log: str) -> str:
    return next((line.strip()[:300] for line in reversed(log.splitlines()) if line.strip()), "")


def _manner(how: int | str) -> str:
    if isinstance(how, str):
        return "lost its process"
    if how == 0:
        return "ended without an answer"
    if how < 0:
        name = signal.Signals(-how).name if -how in set(signal.Signals) else ""
        return f"was killed by signal {-how}" + (f" ({name})" if name else "")
    return f"ended with exit code {how}"


def _timed_out(request: ProofRequest, ends: list[End], roots: Sequence[Path], traces: dict[str, str]) -> ProofAnswer:
    late = [end for end in ends if end.how in ("timeout", "aborted")]
    said = f"{NO_ANSWER} {request.seconds:g} s; {_waiting(late, roots)}"
    return _crashed(request, said, Failure("ProcessDied", said, "run", None, late[0].trace), traces)


def _waiting(ends: list[End], roots: Sequence[Path]) -> str:
    """`rank 0 waits in all_reduce (torch/...:12), rank 1 in ...`: ranks at the same place are said together."""
    places: dict[str, list[int]] = {}
    for end in sorted(ends, key=lambda end: end.rank):
        places.setdefault(where(end.stack, roots), []).append(end.rank)
    said = []
    for place, ranks in places.items():
        who = f"rank {ranks[0]} waits" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))} wait"
        said.append(f"{who} in {place}")
    return ", ".join(said)


def where(stack: str, roots: Sequence[Path]) -> str:
    """The place that a stack (innermost frame first, main thread last) stands at, and the framework's call to it."""
    frames = list(_FRAME.finditer(_THREAD.split(stack)[-1]))
    if not frames:
        return "a place that left no stack"
    inner = frames[0]
    own = next((frame for frame in frames if any(frame["path"].startswith(f"{root}/") for root in roots)), None)
    place = f"{inner['symbol']} ({_short(inner['path'], roots)}:{inner['line']})"
    if own is None or own is inner:
        return place
    return f"{place}, called from {_short(own['path'], roots)}:{own['line']} in {own['symbol']}"


def _short(path: str, roots: Sequence[Path]) -> str:
    for root in roots:
        if path.startswith(f"{root}/"):
            return path[len(str(root)) + 1 :]
    _, found, rest = path.partition("site-packages/")
    if found:
        return rest
    _, found, rest = path.rpartition("/tpscope/")
    return f"tpscope/{rest}" if found else "/".join(path.rsplit("/", 3)[1:])


def _crashed(request: ProofRequest, said: str, error: Failure, traces: dict[str, str]) -> ProofAnswer:
    return ProofAnswer(
        request.framework, request.model, request.scenario.name, request.tp, Verdict.CRASHED, sentence=said,
        error=error, rank_errors=traces,
    )  # fmt: skip
