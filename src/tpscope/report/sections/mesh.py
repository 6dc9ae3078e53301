"""Section 4: which axes each framework builds, and how a parameter lies on them."""

from __future__ import annotations

from tpscope.language.layout import AXES
from tpscope.language.verdict import Status
from tpscope.report.facts import Study
from tpscope.report.rows import MESH_AXES, Column, RunRow
from tpscope.report.runs import MESH
from tpscope.report.sections.proofs import proved
from tpscope.report.text import ABSENT, at, chain_diagram, listed, mesh_diagram, not_yet, place, quote, quoted, table

TITLE = "DeviceMesh and topology"
COMPOSED = ("fsdp", "cp", "pp")
_EXAMPLES = ("q_proj.weight", "o_proj.weight", "input_layernorm.weight")


def section(study: Study) -> list[str]:
    """Meshes by layout, diagrams, refusals, placements on every axis, proofs of the composition."""
    runs = study.of(MESH)
    if not runs:
        return [not_yet("compare").capitalize() + ".", ""]
    lines = ["### What is built", ""]
    lines += table(
        f"`{runs[0].question.model}`, one layout a row: the DeviceMesh that the framework's own code built on a "
        "fake process group of that size, axes in its order, or its answer.",
        ["layout asked for", *study.frameworks],
        [[str(run.question.layout), *(_mesh(run.column(key)) for key in study.frameworks)] for run in runs],
    )  # fmt: skip
    lines += table(
        "The function that built it, and what it flattened out of several axes (with the number of ranks), for the "
        "first layout above that it took.",
        ["framework", "built by", "flattened axes"],
        [_builder(study, key) for key in study.frameworks],
    )
    lines += _drawn(study, runs)
    cited = [
        quote(item.where, f"{key}, {item.name}: ") for key in study.frameworks for item in study.cited(key, MESH_AXES)
    ]
    ran = [
        line
        for key in study.frameworks
        if (one := _widest(runs, key))
        for line in quoted(one.column(key), (r"mesh_order",), 1)
    ]
    lines += ["Where the axes are named:", "", *dict.fromkeys([*cited, *ran]), ""] if cited or ran else []
    lines += ["### What was refused", ""]
    lines += table(
        "Layouts that ended in an answer other than a sharded model: the framework's own words, and the line that "
        "raised them.",
        ["framework", "layout", "answer", "words", "line"],
        [
            [key, str(run.question.layout), column.status.value, column.error.message, at(column.error.where)]
            for key in study.frameworks
            for run in runs
            if (column := run.column(key)) and column.error is not None
        ],
    )
    lines += ["### How a parameter lies on all axes", ""]
    lines += table(
        "Placement on every axis that the answer names for the parameter; where it names `tp` alone, the other "
        "axes had not been applied to it when the model was looked at.",
        ["layout", "parameter", *study.frameworks],
        [
            [str(run.question.layout), f"`{name}`", *(_placements(run.column(key), name) for key in study.frameworks)]
            for run in runs
            for name in _EXAMPLES
            if any((column := run.column(key)) and column.parameters for key in study.frameworks)
        ],
    )  # fmt: skip
    return lines + proved(study, COMPOSED, "a model under tensor parallelism together with another axis")


def _drawn(study: Study, runs: list[RunRow]) -> list[str]:
    """The mesh of each framework for the widest layout that it took, with the ranks in it; equal ones once."""
    meshes: dict[tuple[str, tuple[tuple[str, int], ...]], list[str]] = {}
    lines = []
    for key in study.frameworks:
        run = _widest(runs, key)
        column = run.column(key) if run else None
        if run is None or column is None:
            lines += [f"{key}: no mesh was built for any of these layouts.", ""]
            continue
        meshes.setdefault((str(run.question.layout), tuple(column.mesh.axes.items())), []).append(key)
    for (layout, axes), keys in meshes.items():
        named = listed(f"{axis} = {size}" for axis, size in axes)
        lines += [f"The mesh of {listed(keys)} for {layout}, axes from slowest to fastest {named}, and its ranks:", ""]
        known = [axis for axis in AXES if axis in dict(axes)] == [axis for axis, _ in axes]
        lines += mesh_diagram(dict(axes)) if known else chain_diagram([f"{axis} = {size}" for axis, size in axes])
    return lines


def _mesh(column: Column | None) -> str:
    if column is None:
        return "not asked"
    axes = ", ".join(f"{axis}={size}" for axis, size in column.mesh.axes.items())
    if column.status == Status.OK:
        return axes or "no named axes"
    return f"**{column.status.value}**" + (f" after building {axes}" if axes else "")


def _widest(runs: list[RunRow], key: str) -> RunRow | None:
    built = [run for run in runs if (column := run.column(key)) and column.mesh.axes]
    return max(built, key=lambda run: run.question.layout.world, default=None)


def _builder(study: Study, key: str) -> list[str]:
    run = _widest(study.of(MESH), key)
    column = run.column(key) if run else None
    if column is None:
        return [key, "none built", ABSENT]
    flattened = ", ".join(f"{name} ({' x '.join(sizes)})" for name, sizes in column.mesh.flattened.items())
    return [key, f"`{column.mesh.built_by}`", flattened or "none"]


def _placements(column: Column | None, ending: str) -> str:
    group = next((row for row in column.parameters if row.name.endswith(ending)), None) if column else None
    if group is None:
        return ABSENT
    if not group.mesh:
        return f"tp alone: {place(group.placement)}"
    return ", ".join(f"{axis}: {place(value)}" for axis, value in group.mesh.items())
