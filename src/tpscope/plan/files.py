"""A derived plan as YAML, written and read: the format of `parallelize`. A table that is read at a glance."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from tpscope.errors import UserError
from tpscope.language.sharding import Cut, Edge, EdgeKind, Region, RegionKind, Segment, Sharding, Share, Side

SCHEMA = "tpscope.sharding/1"
_WIDTH = 160


def write(plan: Sharding) -> str:
    """The plan as YAML. `read` gives the same plan back, without the reasons."""
    tree = {
        "schema": SCHEMA, "model": plan.model, "architecture": plan.architecture, "tp": plan.tp,
        "regions": [_region(region) for region in plan.regions],
    }  # fmt: skip
    yaml = YAML()
    yaml.width = _WIDTH
    text = io.StringIO()
    yaml.dump(tree, text)
    return text.getvalue()


def _region(region: Region) -> dict[str, Any]:
    found: dict[str, Any] = {region.kind.value: region.exits[0]}
    if region.entries != region.exits:
        found["entries"] = list(region.entries)
    if region.outputs != (0,):
        found["outputs"] = list(region.outputs)
    if region.carries:
        found["carries"] = region.carries
    found["parameters"] = {name: _share(share) for name, share in region.shares.items()}
    if region.settings:
        found["divide"] = dict(region.settings)
    if region.edges:
        found["edges"] = [_flow({"module": e.module, "at": e.side.value, "does": e.kind.value}) for e in region.edges]
    return found


def _share(share: Share) -> CommentedMap:
    found: dict[str, Any] = {}
    if share.cut is not None:
        found["dim"] = share.cut.dim
        found["segments"] = [segment.length for segment in share.cut.segments]
        if share.cut.overlaps:
            found["copies"] = [segment.copies for segment in share.cut.segments]
        if share.cut.ragged:
            found["ragged"] = True
    if share.summed:
        found["gradient"] = "sum"
    if share.once:
        found["counted"] = "once"
    return _flow(found)


def _flow(found: dict[str, Any]) -> CommentedMap:
    flow = CommentedMap(found)
    flow.fa.set_flow_style()
    return flow


def read(text: str, name: str) -> Sharding:
    """The plan that `write` wrote. Raises UserError, naming `name`, for anything else."""
    try:
        tree = YAML(typ="safe").load(text)
        if tree["schema"] != SCHEMA:
            raise UserError(f"{name} has schema {tree['schema']!r} where {SCHEMA} is read; write it with tpscope plan")
        regions = tuple(_read_region(item) for item in tree["regions"])
        return Sharding(tree["model"], tree["architecture"], tree["tp"], regions)
    except (KeyError, TypeError, ValueError, StopIteration, YAMLError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{name} is no plan of {SCHEMA} ({said}); write it with tpscope plan --format tpscope"
        ) from error


def _read_region(tree: dict[str, Any]) -> Region:
    kind = next(kind for kind in RegionKind if kind.value in tree)
    shares = {name: _read_share(item) for name, item in tree["parameters"].items()}
    exits = (tree[kind.value],)
    edges = tuple(Edge(edge["module"], Side(edge["at"]), EdgeKind(edge["does"])) for edge in tree.get("edges", ()))
    return Region(
        kind, tuple(tree.get("entries", exits)), exits, shares, dict(tree.get("divide", {})),
        tuple(tree.get("outputs", (0,))), edges=edges,
        carries=tree.get("carries", ""),
    )  # fmt: skip


def _read_share(tree: dict[str, Any]) -> Share:
    cut = None
    if "dim" in tree:
        copies = tree.get("copies") or [1] * len(tree["segments"])
        pairs = zip(tree["segments"], copies, strict=True)
        cut = Cut(tree["dim"], tuple(Segment(*pair) for pair in pairs), tree.get("ragged", False))
    return Share(cut, tree.get("gradient") == "sum", tree.get("counted") == "once")
