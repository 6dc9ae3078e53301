"""Every leaf of the input through its row, into a draft of the output."""

from __future__ import annotations

from tpscope.errors import UserError
from tpscope.migrate.how import HOW
from tpscope.migrate.job import Draft, Job, Ranks
from tpscope.migrate.result import Unknown, Verdict
from tpscope.migrate.rows import Row, closest, row_of, rows
from tpscope.migrate.source import Leaf, Source, number

OTHER = {"axolotl": "nemo", "nemo": "axolotl"}


def ranks_of(source: Source, world: int | None) -> Ranks:
    """The ranks by axis. Raises UserError where the sizes do not make up the world."""
    if source.kind == "axolotl":
        tp, ep = (_size(source, key) for key in ("tensor_parallel_size", "expert_parallel_size"))
        cp = max(_size(source, "context_parallel_size"), _size(source, "sequence_parallel_degree"))
        pp = 1
        stated = [source.get(key) for key in ("dp_shard_size", "dp_replicate_size")]
        data = _product(stated) if any(_count(value) for value in stated) else None
        world = world or _count(source.get("world_size"))
    else:
        tp, cp, pp, ep = (_size(source, f"distributed.{axis}_size") for axis in ("tp", "cp", "pp", "ep"))
        data = _count(source.get("distributed.dp_size"))
        world = world or _count(source.get("distributed.world_size"))
    if world is None:
        return Ranks(None if data is None else data * tp * cp * pp, tp, cp, pp, ep, data)
    others = tp * cp * pp
    if world % others:
        sizes = " x ".join(f"{axis} {size}" for axis, size in (("tp", tp), ("cp", cp), ("pp", pp)) if size > 1)
        raise UserError(
            f"{source.file}: {sizes} take {others} ranks, which does not divide a world of {world}; "
            f"give a --world that is a multiple of {others}"
        )
    if data is not None and source.kind == "nemo" and data * others != world:
        raise UserError(
            f"{source.file}: dp_size {data} with the other axes makes {data * others} ranks, and the world is {world}; "
            "change one of them"
        )
    return Ranks(world, tp, cp, pp, ep, world // others)


def _count(value: object) -> int | None:
    value = number(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


def _size(source: Source, key: str) -> int:
    return _count(source.get(key)) or 1


def _product(values: list[object]) -> int:
    made = 1
    for value in values:
        made *= _count(value) or 1
    return made


def convert(source: Source, ranks: Ranks, samples: int | None = None) -> tuple[Draft, list[Unknown]]:
    """The output as a draft, and the keys that no row has."""
    draft = Draft(OTHER[source.kind])
    found: dict[int, list[Leaf]] = {}
    unknown: list[Unknown] = []
    for leaf in source.leaves:
        row = row_of(source.kind, leaf.pattern)
        if row is None:
            unknown.append(Unknown(leaf.path, closest(source.kind, leaf.pattern), leaf.line))
        else:
            found.setdefault(id(row), []).append(leaf)
    for row in rows():
        leaves = found.get(id(row), [])
        if leaves or row.always or row.defaults:
            _run(row, Job(row, source, draft, ranks, samples, leaves))
    return draft, unknown


def _run(row: Row, job: Job) -> None:
    leaves = list(job.leaves)
    if job.leaves or row.keys[job.to]:
        HOW[row.how][job.to](job)
    for leaf in leaves:
        # What a function says nothing of is lost, and that is said.
        job.lose(leaf.path, verdict=row.verdict or Verdict.DROPPED)
