"""How long a pipeline schedule takes, operation by operation.

Orders of one stage a rank as torch's Schedule1F1B and ScheduleGPipe run them (1F1B: min(m, p - r) forwards, then a
backward and a forward in turn, then the backwards that are left). Where stages are even the time beyond m micro-batches
is (p - 1)/m of them, as Huang et al. (GPipe, 2019) and Narayanan et al. (Efficient large-scale language model training
on GPU clusters, 2021) have it; where they are not, what waits for a slow stage may be waited for in no other place.
"""

from __future__ import annotations

from dataclasses import dataclass

from tpscope.language.measured.stage import Stages


@dataclass(frozen=True)
class Plan:
    """How a global batch is put through the pipeline."""

    schedule: str
    micro_batches: int


@dataclass(frozen=True)
class Pace:
    """Seconds of a micro-batch on one rank, with what it waits for from its neighbours."""

    forward: float
    backward: float


def order(rank: int, ranks: int, count: int, all_forwards_first: bool) -> list[tuple[bool, int]]:
    """What a rank runs: pairs of whether it is a forward, and the micro-batch's number."""
    warm = count if all_forwards_first else min(count, ranks - rank)
    found = [(True, number) for number in range(warm)]
    for number in range(count):
        found.append((False, number))
        if warm + number < count:
            found.append((True, warm + number))
    return found


def seconds(paces: list[Pace], count: int, all_forwards_first: bool = False) -> float:
    """From the first forward to the last backward of `count` micro-batches."""
    ranks = len(paces)
    waiting = [order(rank, ranks, count, all_forwards_first)[::-1] for rank in range(ranks)]
    ends: dict[tuple[bool, int, int], float] = {}
    clock = [0.0] * ranks
    while any(waiting):
        for rank, left in enumerate(waiting):
            while left:
                forward, number = left[-1]
                neighbour = rank - 1 if forward else rank + 1
                needed = (forward, neighbour, number)
                if 0 <= neighbour < ranks and needed not in ends:
                    break
                left.pop()
                pace = paces[rank].forward if forward else paces[rank].backward
                clock[rank] = max(clock[rank], ends.get(needed, 0.0)) + pace
                ends[forward, rank, number] = clock[rank]
    return max(clock)


def in_flight(rank: int, stages: Stages, plan: Plan) -> int:
    """Forwards of a rank whose backward is still to come, at most: GPipe all; 1F1B p - rank (torch's Schedule1F1B:
    "Last stage has 1 warmup, second-to-last 2 warmups"); interleaved as torch's `_get_warmup_ops` counts, of one stage
    each."""
    count, pipes, each = plan.micro_batches, stages.ranks, stages.per_rank
    if "GPipe" in stages.schedule:
        return count
    if each == 1:
        return min(count, pipes - rank)
    a_round = count // max(1, count // pipes)
    return min((each - 1) * a_round + 2 * (pipes - 1 - rank) + 1, count * each)
