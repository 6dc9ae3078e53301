"""Where every parameter of a model is after a framework has sharded it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tpscope.language.answer import FrameworkAnswer, ParameterRow
from tpscope.language.placement import REPLICATE, Placement, shard, strided
from tpscope.language.plan import Plan, Rule
from tpscope.language.verdict import Reduction

Shapes = dict[str, tuple[int, ...]]


def shapes(model: nn.Module) -> Shapes:
    """Global shape of every parameter by name, tied ones under each of their names. Before sharding."""
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}


def tied(model: nn.Module) -> bool:
    """True if the output head and the input embedding are one parameter."""
    get_head = getattr(model, "get_output_embeddings", lambda: None)
    get_input = getattr(model, "get_input_embeddings", lambda: None)
    head, embedding = get_head(), get_input()
    return head is not None and embedding is not None and getattr(head, "weight", 0) is getattr(embedding, "weight", 1)


def rows(model: nn.Module, before: Shapes, plan: Plan, decided: Mapping[str, str] | None = None) -> list[ParameterRow]:
    """One row a parameter. A parameter that the framework replaced or renamed is listed as it is now.

    `decided` holds the pattern that the framework's own matching found, where it is known.
    """
    by_pattern = {rule.pattern: rule for rule in plan.rules}
    seen: dict[int, str] = {}
    table = []
    for name, tensor in model.named_parameters(remove_duplicate=False):
        if id(tensor) in seen:
            continue
        seen[id(tensor)] = name
        rule = by_pattern[decided[name]] if decided and name in decided else plan.rule_for(_bare(name))
        table.append(_row(name, tensor, before.get(name), rule))
    return table


def _bare(name: str) -> str:
    """A parameter's name without what PEFT puts around a model and its Linear layers."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _row(name: str, tensor: torch.Tensor, before: tuple[int, ...] | None, rule: Rule | None) -> ParameterRow:
    mesh: dict[str, str] = {}
    if isinstance(tensor, DTensor):
        axes = tuple(axis(name) for name in tensor.device_mesh.mesh_dim_names or ("tp",))
        mesh = {name: str(_placement(place)) for name, place in zip(axes, tensor.placements, strict=True)}
        on_tp = _placement(tensor.placements[axes.index("tp")]) if "tp" in axes else REPLICATE
        whole, local = tuple(tensor.shape), tuple(tensor._local_tensor.shape)
        if "tp" in axes and axes != ("tp",):
            local = _tp_local(whole, on_tp, tensor.device_mesh["tp"].size())
        elif "tp" not in axes:
            local = whole
    else:
        whole, local = before or tuple(tensor.shape), tuple(tensor.shape)
        packed = rule is not None and rule.style.kind in ("packed_colwise", "packed_rowwise")
        on_tp = _difference(whole, local, packed)
    gradient = Reduction.SHARDED if on_tp.sharded else (rule.style.gradient if rule else Reduction.NONE)
    return ParameterRow(
        name, list(whole), str(on_tp), list(local), gradient, Reduction.UNOBSERVED,
        rule.pattern if rule else None, tensor.requires_grad, mesh if set(mesh) - {"tp"} else {},
    )  # fmt: skip


def axis(name: Any) -> str:
    """A mesh axis by its plain name, where a framework names axes by an enumeration."""
    return str(getattr(name, "value", name))


def _placement(placement: Any) -> Placement:
    return Placement.parse(repr(placement))


def _tp_local(whole: tuple[int, ...], placement: Placement, size: int) -> tuple[int, ...]:
    if not placement.sharded:
        return whole
    dim = (placement.dim or 0) % len(whole)
    return (*whole[:dim], -(-whole[dim] // size), *whole[dim + 1 :])


def _difference(whole: tuple[int, ...], local: tuple[int, ...], packed: bool) -> Placement:
    if len(whole) != len(local):
        return REPLICATE
    dims = [dim for dim, (full, part) in enumerate(zip(whole, local, strict=True)) if full != part]
    if not dims:
        return REPLICATE
    return strided(dims[0], 2) if packed else shard(dims[0])


def plain_adapters(model: nn.Module, before: Shapes) -> str | None:
    """What to say of LoRA adapters that were cut to a shard's size without being told to anybody."""
    cut = [
        name
        for name, tensor in model.named_parameters()
        if ".lora_" in name and not isinstance(tensor, DTensor) and tuple(tensor.shape) != before.get(name)
    ]
    if not cut:
        return None
    return (
        f"{len(cut)} adapter tensors are plain tensors of the size of a shard; no rule of the plan moves their inputs, "
        "outputs or gradients between ranks"
    )


def summarise(answer: FrameworkAnswer, plan: Plan, names: list[str]) -> None:
    """Fill in the fractions and the rules that decided about no parameter."""
    total = sum(prod(row.shape) for row in answer.parameters)
    sharded = sum(prod(row.shape) for row in answer.parameters if row.placement != "Replicate()")
    answer.total_parameters = total
    answer.sharded_fraction = round(sharded / total, 6) if total else 0.0
    used = {row.rule for row in answer.parameters}
    answer.unmatched = [
        rule.pattern
        for rule in plan.rules
        if rule.pattern not in used and not any(rule.matches(name) for name in names)
    ]


def head(answer: FrameworkAnswer) -> None:
    """What the plan says of the output head: its style, its output layout, and whether it gathers the logits."""
    row = next((row for row in answer.plan if row.pattern.rpartition(".")[2] in ("lm_head", "embed_out")), None)
    if row is None:
        return
    found = answer.head
    found.module, found.style, found.plan_output = row.pattern, row.style, row.output
    if row.output == "Replicate()" and row.pattern not in answer.unmatched:
        found.gathered_by = "plan"
