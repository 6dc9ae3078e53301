"""Numbers of a layout: what divides what, and which sizes would."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tpscope.language.layout import AXES, Layout
from tpscope.models.axolotl_yaml import LAYOUT_KEYS
from tpscope.models.spec import Intent, ModelSpec

_TEXT = ("text_config", "llm_config", "language_config")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KV = ("num_key_value_heads", "multi_query_group_num", "n_kv_heads")


@dataclass(frozen=True)
class Ranks:
    """A file's layout against a number of ranks. `layout` fills the world where the framework could lay it out."""

    layout: Layout
    world: int
    problem: str = ""
    remedy: str = ""
    key: str = ""


def tp_key(kind: str) -> str:
    """How a file of this framework spells the tp size."""
    return "distributed.tp_size" if kind == "nemo" else "tensor_parallel_size"


def axis_key(kind: str, axis: str) -> str:
    """How a file of this framework spells the size of an axis."""
    if kind == "axolotl":
        return LAYOUT_KEYS.get(axis, axis)
    return {"dp_shard": "distributed.dp_size"}.get(axis, f"distributed.{axis}_size")


def heads(spec: ModelSpec) -> tuple[int, int]:
    """Attention heads and key-value heads of a config, 0 where it does not say."""
    text = next((spec.config[key] for key in _TEXT if isinstance(spec.config.get(key), dict)), spec.config)
    count = next((text[key] for key in _HEADS if isinstance(text.get(key), int)), 0)
    kv = next((text[key] for key in _KV if isinstance(text.get(key), int)), count)
    return count, kv


def good_tps(spec: ModelSpec, world: int, others: int = 1) -> list[int]:
    """Sizes of tp that divide the heads, the key-value heads and the ranks that the other axes leave."""
    count, kv = heads(spec)
    return [
        tp
        for tp in range(1, min(world, 64) + 1)
        if world % (tp * others) == 0 and (not count or count % tp == 0) and (not kv or kv % tp == 0)
    ]


def head_problem(spec: ModelSpec, tp: int) -> str:
    """Why a tp size does not fit a model's heads, "" if it does."""
    count, kv = heads(spec)
    if count and count % tp:
        return f"tp {tp} does not divide the {count} attention heads of {spec.name}"
    if kv and kv % tp:
        return f"tp {tp} does not divide the {kv} key-value heads of {spec.name}"
    return ""


def fit(intent: Intent, spec: ModelSpec, world: int | None, mesh: dict[str, int] | None) -> Ranks:
    """The layout that a file gets on `world` ranks, by the mesh that the framework built for it, else by arithmetic."""
    layout = intent.layout
    world = world or intent.world or layout.world
    stated = {axis: getattr(layout, axis) for axis in AXES if axis in intent.stated}
    product = 1
    for size in stated.values():
        product *= size
    said = " x ".join(f"{axis}={size}" for axis, size in stated.items() if size > 1) or "tp=1"
    if mesh:
        known: dict[str, Any] = {axis: mesh.get(axis, 1) for axis in AXES}
        if "dp" in mesh and mesh.get("dp_shard", 1) == 1:
            known["dp_shard"] = mesh["dp"]
        layout = replace(layout, **known)
    elif world % product == 0 and "dp_shard" not in stated:
        layout = replace(layout, dp_shard=world // product)
    whole = layout.world == world and (bool(mesh) or world % product == 0)
    if whole:
        return Ranks(layout, world)
    counted = layout.world if mesh else product
    problem = f"{said} takes {counted} ranks, which does not make up a world of {world}"
    return Ranks(layout, world, problem, _remedy(intent, spec, world, stated), _worst(intent, world, stated))


def _worst(intent: Intent, world: int, stated: dict[str, int]) -> str:
    """The key of the axis to change: the first that does not divide what is left of the world."""
    left = world
    for axis in ("tp", "pp", "cp", "dp_replicate", "dp_shard"):
        size = stated.get(axis, 1)
        if left % size:
            return axis_key(intent.kind, axis)
        left //= size
    axes = [axis for axis in ("dp_shard", "dp_replicate", "cp", "pp", "tp") if stated.get(axis, 1) > 1]
    return axis_key(intent.kind, axes[0]) if axes else tp_key(intent.kind)


def _remedy(intent: Intent, spec: ModelSpec, world: int, stated: dict[str, int]) -> str:
    key = _worst(intent, world, stated)
    axis = next((axis for axis in AXES if axis_key(intent.kind, axis) == key), "tp")
    others = 1
    for other, size in stated.items():
        others *= 1 if other == axis else size
    if axis == "tp":
        sizes: list[int] = good_tps(spec, world, others)
    else:
        exact = axis in ("dp_shard", "dp_replicate") and "dp_shard" in stated
        sizes = [
            size for size in range(1, world + 1) if (world == size * others if exact else world % (size * others) == 0)
        ]
    if not sizes:
        return f"run on a multiple of {others} ranks"
    return f"write {key.rpartition('.')[2]}: {_or(sizes)}"


def _or(sizes: list[int]) -> str:
    words = [str(size) for size in sizes[:6]]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def sentence(sizes: list[int]) -> str:
    """`1, 2 or 4`."""
    return _or(sizes)


def shown(layout: Layout) -> dict[str, Any]:
    """A layout for the answer."""
    return {**layout.sizes, "world": layout.world, "sequence_parallel": layout.sequence_parallel}
