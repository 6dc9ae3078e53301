"""The differences that matter, each with a plain sentence on what it means. Pure functions over the columns."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from tpscope.compare.join import canonical
from tpscope.compare.result import Difference
from tpscope.language.answer import FrameworkAnswer, ParameterRow
from tpscope.language.verdict import Reduction, Severity, Status

Rows = dict[str, list[ParameterRow]]
_ORDER = list(Severity)


def find(columns: list[FrameworkAnswer]) -> list[Difference]:
    """Every difference between columns and every surprise within one, worst first."""
    running = [column for column in columns if column.status == Status.OK]
    found = [
        *_statuses(columns),
        *_loops(running),
        *_gradients(running),
        *_untied(running),
        *_adapters(running),
        *_plain_adapters(running),
        *_ignored(columns),
        *_unsharded(running),
        *_placements(running),
        *_heads(running),
        *_levels(running),
        *_meshes(running),
        *_classes(running),
    ]
    return sorted(found, key=lambda difference: _ORDER.index(difference.severity))


def joined(column: FrameworkAnswer) -> Rows:
    """Rows of a column by canonical name."""
    rows: Rows = {}
    for row in column.parameters:
        rows.setdefault(canonical(row.name), []).append(row)
    return rows


def _where(column: FrameworkAnswer) -> str:
    line = column.error.where if column.error else None
    return f" ({line.path}:{line.line})" if line else ""


def _statuses(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    values = {column.id: column.status.value for column in columns}
    verbs = {Status.REFUSED: "refuses", Status.UNSUPPORTED: "does not support it", Status.CRASHED: "crashes"}
    for column in columns:
        if column.status == Status.OK or column.error is None:
            continue
        verb = verbs[column.status]
        if column.status == Status.CRASHED:
            verb += f" in {column.error.phase}"
        caveat = _torch_caveat(column) if column.status == Status.CRASHED else ""
        yield Difference(
            "status", values, f"{column.id} {verb}: {column.error.message}{_where(column)}{caveat}", Severity.BLOCKS
        )


def _torch_caveat(column: FrameworkAnswer) -> str:
    outside = [item for item in column.environment.get("outside_pin", []) if item["package"] == "torch"]
    if not outside:
        return ""
    item = outside[0]
    return f"; seen on torch {item['version']}, outside its declared range {item['declared']}"


def _loops(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    values = {column.id: column.loop_error.message if column.loop_error else "reaches it" for column in columns}
    for column in columns:
        if column.loop_error is not None:
            error = column.loop_error
            place = f", in {error.where.symbol}" if error.where else ""
            line = f" ({error.where.path}:{error.where.line})" if error.where else ""
            yield Difference(
                "first optimizer step", values,
                f"{column.id}: the training loop raises before the first optimizer step{place}: {error.kind}: "
                f"{error.message}{line}{_torch_caveat(column)}",
                Severity.BLOCKS,
            )  # fmt: skip


def _gradients(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    # A column that ignores sequence parallel runs its norms on whole sequences: its gradients are another computation.
    sequence = [column for column in columns if any(item["setting"] == "sequence_parallel" for item in column.ignored)]
    for group in (sequence, [column for column in columns if column not in sequence]):
        yield from _gradients_of(group)


def _gradients_of(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    tables = {column.id: joined(column) for column in columns}
    disagree: dict[tuple[tuple[str, str], ...], list[str]] = {}
    forgotten: dict[str, list[str]] = {}
    for name in _all_names(tables):
        seen = {identifier: _reduction(rows[name]) for identifier, rows in tables.items() if name in rows}
        summed = [key for key, value in seen.items() if value == Reduction.SUM]
        bare = [key for key, value in seen.items() if value in (Reduction.NONE, Reduction.MEAN)]
        if summed and bare:
            values = tuple((key, str(seen[key])) for key in [*bare, *summed])
            disagree.setdefault(values, []).append(short(name))
            continue
        for key in bare:
            if tables[key][name][0].gradient == Reduction.SUM:
                forgotten.setdefault(key, []).append(short(name))
    for pairs, names in disagree.items():
        said = ", ".join(f"{key} {_act(value, len(names) > 1)}" for key, value in pairs)
        yield Difference(f"gradient of {some(names)}", dict(pairs), f"{some(names)}: {said}", Severity.WRONG)
    for key, names in forgotten.items():
        yield Difference(
            f"gradient of {some(names)}", {key: "marked, not done"},
            f"{some(names)}: the plan of {key} marks the gradient to be summed over tp and nothing does it",
            Severity.WRONG,
        )  # fmt: skip


def _reduction(rows: list[ParameterRow]) -> Reduction | None:
    kinds = {row.gradient_loop for row in rows if row.trainable}
    return kinds.pop() if len(kinds) == 1 else None


def _act(value: str, several: bool) -> str:
    them, their, gradient = ("them", "their", "gradients") if several else ("it", "its", "gradient")
    if value == "sum":
        return f"replicates {them} and sums {their} {gradient} over tp before the optimizer step"
    if value == "mean":
        return f"replicates {them} and averages {their} {gradient} over tp"
    return f"replicates {them} and nobody sums {their} {gradient}"


def _untied(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    values = {column.id: _tie(column) for column in columns}
    for column in columns:
        head = column.head
        if not head.tied:
            continue
        said = f"{column.id}: {_tie(column)}"
        if head.tied_after_step is False or (head.tied_after_step is None and not head.tied_after):
            yield Difference("tied head", values, f"{said}: each is trained by itself", Severity.WRONG)
        elif head.retied_at is not None:
            yield Difference("tied head", values, said, Severity.NOTE)


def _tie(column: FrameworkAnswer) -> str:
    head = column.head
    if not head.tied:
        return "head and embedding are not tied"
    words = "sharding leaves the tie of head and embedding"
    if head.retied_at is not None:
        line = f"{head.retied_at.path}:{head.retied_at.line}"
        words = f"sharding unties head and embedding, the checkpoint loader ties them again ({line})"
    elif not head.tied_after:
        return "sharding unties head and embedding, and they are two parameters from then on"
    if head.tied_after_step is False:
        words += ", and after a forward and a backward they are two parameters again"
    return words


def _adapters(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    """A LoRA adapter whose width does not fit the shard of the Linear that it is added to."""
    for column in columns:
        rows = joined(column)
        wrong = []
        for name, found in rows.items():
            base = rows.get(name.replace(".lora_B.", "."))
            if ".lora_B." in name and base and base[0].local_shape[0] != found[0].local_shape[0]:
                wrong.append(short(name.replace(".lora_B.weight", "")))
        if wrong:
            yield Difference(
                "LoRA adapters", {column.id: ", ".join(wrong)},
                f"{column.id}: the adapters of {some(wrong)} are as wide as the whole layer while the layer itself is "
                "cut: adapter and shard do not describe the same features",
                Severity.WRONG,
            )  # fmt: skip


def _plain_adapters(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    for column in columns:
        if column.lora.note:
            values = {other.id: other.lora.note or "placed by the plan" for other in columns}
            yield Difference("LoRA adapters", values, f"{column.id}: {column.lora.note}", Severity.IGNORED)


def _ignored(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    for column in columns:
        for item in column.ignored:
            yield Difference(
                item["setting"], {column.id: item["what"]}, f"{column.id}: {item['what']}", Severity.IGNORED
            )


def _unsharded(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    """Parameters of more than one percent of the model that every rank holds whole."""
    for column in columns:
        large = {
            short(name): sum(prod(row.shape) for row in rows)
            for name, rows in joined(column).items()
            if all(row.placement == "Replicate()" for row in rows)
        }
        large = {name: size for name, size in large.items() if size * 100 > column.total_parameters}
        if large and column.sharded_fraction > 0:
            share = sum(large.values()) / column.total_parameters
            yield Difference(
                "left unsharded", {column.id: ", ".join(large)},
                f"{column.id} leaves {some(list(large))} whole on every rank: {share:.1%} of the parameters",
                Severity.COST,
            )  # fmt: skip


def _placements(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    tables = {column.id: joined(column) for column in columns}
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name in _all_names(tables):
        seen = {
            key: " / ".join(sorted({row.placement for row in rows[name]}))
            for key, rows in tables.items()
            if name in rows
        }
        if len(set(seen.values())) > 1:
            groups.setdefault(tuple(seen.items()), []).append(short(name))
    for pairs, names in groups.items():
        values = dict(pairs)
        kinds = {"replicated" if value == "Replicate()" else "sharded" for value in values.values()}
        severity = Severity.COST if len(kinds) > 1 else Severity.NOTE
        said = "; ".join(f"{key}: {value}" for key, value in values.items())
        yield Difference(f"placement of {some(names)}", values, f"{some(names)}: {said}", severity)


def _heads(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    values = {column.id: column.head.gathered_by or "not gathered" for column in columns}
    by_loss = [column for column in columns if column.head.gathered_by == "loss"]
    by_plan = [column for column in columns if column.head.gathered_by == "plan"]
    if by_loss:
        said = ", ".join(
            column.id + (f" ({column.head.where.path}:{column.head.where.line})" if column.head.where else "")
            for column in by_loss
        )
        yield Difference(
            "logits", values,
            f"{said}: the plan keeps the logits sharded over the vocabulary, and the default loss gathers them on "
            "every rank",
            Severity.COST,
        )  # fmt: skip
    if by_plan and len(set(values.values())) > 1:
        said = ", ".join(f"{column.id} (style {column.head.style})" for column in by_plan)
        yield Difference("logits", values, f"{said}: the plan itself gathers the logits on every rank", Severity.COST)


def _levels(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    values = {column.id: column.selection.level for column in columns}
    if len(set(values.values())) > 1:
        said = ", ".join(f"{key} takes the plan of level {value}" for key, value in values.items())
        yield Difference("plan level", values, said, Severity.NOTE)


def _meshes(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    values = {column.id: " x ".join(f"{axis}={size}" for axis, size in column.mesh.axes.items()) for column in columns}
    if len(set(values.values())) > 1:
        said = "; ".join(f"{key} builds {value or 'no named axes'}" for key, value in values.items())
        yield Difference("mesh", values, said, Severity.NOTE)


def _classes(columns: list[FrameworkAnswer]) -> Iterator[Difference]:
    values = {column.id: column.model_class for column in columns}
    if len(set(values.values())) > 1:
        said = "; ".join(f"{key}: {value}" for key, value in values.items())
        yield Difference("model class", values, f"the classes that run are not the same: {said}", Severity.NOTE)


def _all_names(tables: dict[str, Rows]) -> list[str]:
    return list(dict.fromkeys(name for rows in tables.values() for name in rows))


def short(name: str) -> str:
    """A parameter's name without the layer prefix: `q_norm`, `mlp.experts.down_proj`, `lm_head`."""
    bare = name.removesuffix(".weight")
    for prefix in ("model.layers.*.", "model.", "transformer.h.*."):
        bare = bare.removeprefix(prefix)
    return bare.removeprefix("self_attn.")


def some(names: list[str]) -> str:
    """Names in a row, the first of them where they are many."""
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"
