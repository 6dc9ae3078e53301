"""The axes of the DeviceMesh, who builds it, and what tensor parallelism composes with: S11, S12, S13, S28."""

from __future__ import annotations

from collections import Counter

from tpscope.language.verdict import Status, Verdict
from tpscope.report.facts import label
from tpscope.report.judges.view import Asked, Found, View, cites, outside_torch, proofs, raised, ran, share, unasked
from tpscope.report.rows import MESH_AXES, VALIDATED, Column
from tpscope.report.runs import MESH, SEQUENCE
from tpscope.report.text import listed, together

NEMO_AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
AXOLOTL_AXES = {"dp_shard", "cp", "tp", "pp"}
BUILDER = "build_parallelism_config"
COMPOSED = ("fsdp", "sequence-parallel", "cp", "pp")


def five_axes(view: View) -> Found:
    """S11: has every mesh that was built the five axes, in this order?"""
    built = [pair for pair in view.asked(view.nemo, None) if pair[1].mesh.axes]
    if not built:
        return unasked()
    seen = Counter(tuple(column.mesh.axes) for _, column in built)
    words = together(f"{', '.join(axes)} in {count} of {len(built)} meshes" for axes, count in seen.most_common())
    return Found(set(seen) == {NEMO_AXES}, words, cites(view.nemo, view.cited(view.nemo, MESH_AXES)))


def three_or_four_axes(view: View) -> Found:
    """S12: is a mesh of three or four axes built, and are the axes over all layouts those of the statement?"""
    asked = view.asked(view.axolotl, None)
    built = [pair for pair in asked if pair[1].mesh.axes]
    if not built:
        return unasked()
    seen = list(dict.fromkeys(axis for _, column in built for axis in column.mesh.axes))
    most = max(len(column.mesh.axes) for _, column in built)
    failed = [pair for pair in view.asked(view.axolotl, MESH) if not pair[1].mesh.axes]
    words = f"axes seen: {', '.join(seen)}; at most {most} in one mesh"
    if failed:
        words += "; no mesh for " + together(f"{run.question.layout} ({column.status.value})" for run, column in failed)
    evidence = (*ran(built, "mesh_order"), *raised(failed))
    return Found(set(seen) == AXOLOTL_AXES and 3 <= most <= 4, words, evidence)


def configures(view: View) -> Found:
    """S13: do its lines run for every mesh, is the mesh as large as the world, and is there a line that refuses?"""
    built = [pair for pair in view.asked(view.axolotl, None) if pair[1].mesh.axes]
    checks = view.cited(view.axolotl, VALIDATED)
    if not built:
        return unasked()
    by_it = [pair for pair in built if ran([pair], "", BUILDER)]
    fits = [pair for pair in built if _ranks(pair[1]) == pair[0].question.layout.world]
    words = (
        f"lines of `{BUILDER}` ran for {share(by_it, built, 'meshes')}; {len(fits)} have as many ranks as the layout; "
        + ("it refuses sizes that leave ranks over, read and not run" if checks else "no line that refuses sizes")
    )
    later = [pair for pair in view.asked(view.axolotl, MESH) if pair[1].error and pair[1].error.phase == "mesh"]
    if later:
        layouts = together(str(run.question.layout) for run, _ in later)
        words += f"; what it lets through is refused after it for {layouts}"
    met = len(by_it) == len(fits) == len(built) and bool(checks)
    return Found(met, words, (*ran(by_it, "pc_kwargs", BUILDER), *cites(view.axolotl, checks), *raised(later)))


def _ranks(column: Column) -> int:
    ranks = 1
    for size in column.mesh.axes.values():
        ranks *= size
    return ranks


def composes(view: View) -> Found:
    """S28: is every layout with dp_shard, cp, pp or sequence parallelism beside tp sharded, where tp alone is?"""
    words, failed, open_, unequal = [], [], [], False
    for framework in (view.nemo, view.axolotl):
        alone = {run.question.model for run, _ in view.answered(framework)}
        asked = [*view.asked(framework, MESH), *view.asked(framework, SEQUENCE)]
        asked = [pair for pair in asked if pair[0].question.model in alone]
        if not asked:
            return unasked()
        fates = [(pair, _fate(pair)) for pair in asked]
        bad = [(pair, fate) for pair, fate in fates if fate != Status.OK.value]
        certain = [pair for pair, fate in bad if fate != Status.CRASHED.value or not outside_torch(pair[1])]
        failed += certain
        open_ += [pair for pair, _ in bad if pair not in certain]
        told = f"{framework} does {len(asked) - len(bad)} of {len(asked)} as asked"
        if bad:
            told += "; not " + together(f"{label(run)} ({fate})" for (run, _), fate in bad)
        for scenario in COMPOSED:
            cells = view.cells(framework, scenario)
            unequal |= any(cell.verdict != Verdict.EQUAL for cell in cells)
            told += f"; {proofs(cells, f'of {scenario}')}" if cells else ""
        words.append(told)
    told = ". ".join(words)
    if open_ and not failed and not unequal:
        return unasked("prove", f"{told}; inside the range of torch", raised(open_))
    return Found(not failed and not unequal, told, raised(failed))


def _fate(pair: Asked) -> str:
    _, column = pair
    if column.status != Status.OK:
        return column.status.value
    ignored = listed((item["setting"] for item in column.ignored), "")
    return f"{ignored} ignored" if ignored else Status.OK.value
