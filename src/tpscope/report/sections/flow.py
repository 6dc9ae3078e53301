"""One decoder layer as it ran under each framework's plan: a part of section 2."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tpscope.language.measured.layer import Visit
from tpscope.language.plan import wildcard
from tpscope.report.experiments.block_rows import Block
from tpscope.report.facts import Study
from tpscope.report.runs import PLAIN, SEQUENCE
from tpscope.report.text import counted, flow_diagram, listed, place, together

IN, OUT = "in", "out"


def layers(study: Study) -> list[str]:
    """A diagram for each way in which the layer of a model ran, with the frameworks that ran it so."""
    rows = [row for key in study.frameworks for row in study.measured(Block) if row.framework == key]
    if not rows:
        return []
    commands = listed(f"`{row.command}`" for row in rows)
    lines = [
        "### One decoder layer as it ran", "",
        f"The first decoder layer of the two-layer model, TP={rows[0].tp}, with hooks around every module: a "
        "box is a module that ran, with the kind of style that the plan gives it and the collectives that "
        "were issued in it; an arrow is a tensor that one box gave and another took, told by its storage, "
        "with the layout that its shape shows beside the unsharded model's (a partial sum looks whole). What "
        "a module computes between its parts is its own arithmetic: it is drawn as taking all that no box has "
        "taken yet; residual additions are in it. Repeated "
        f"by {commands}.", "",
    ]  # fmt: skip
    for model in dict.fromkeys(row.model for row in rows):
        lines += [f"#### {model}", ""]
        plain: dict[str, list[str]] = {}
        for asked in (False, True):
            mine = [row for row in rows if row.model == model and row.sequence_parallel == asked]
            lines += _alike(study, mine, plain)
    return lines


def _alike(study: Study, rows: list[Block], plain: dict[str, list[str]]) -> list[str]:
    """Diagrams of one model and setting, each with the frameworks to which it belongs."""
    groups: dict[tuple[str, ...], list[Block]] = {}
    silent: dict[str, list[str]] = {}
    same = []
    for row in rows:
        drawn = _diagram(study, row) if row.visits and not row.unobserved else []
        if not drawn:
            silent.setdefault(row.failed or row.unobserved or "no layer ran", []).append(row.framework)
        elif row.sequence_parallel and plain.get(row.framework) == drawn:
            same.append(row.framework)
        else:
            groups.setdefault(tuple(drawn), []).append(row)
        if not row.sequence_parallel:
            plain[row.framework] = drawn
    lines = []
    setting = (
        "with sequence parallelism" if any(row.sequence_parallel for row in rows) else "without sequence parallelism"
    )
    for lines_of, mine in groups.items():
        lines += [f"{listed(row.framework for row in mine)}, {setting}: {_totals(mine[0])}.", "", *lines_of]
    if same:
        lines += [f"With sequence parallelism asked for, exactly as without: {listed(same)}.", ""]
    if silent:
        told = together(f"{listed(keys)}: {words}" for words, keys in silent.items())
        lines += [f"Not seen to run {setting}: {told}", ""]
    return lines


def _totals(row: Block) -> str:
    sums = {"forward": Counter[str](), "backward": Counter[str](), "of weights": Counter[str]()}
    for visit in row.visits:
        sums["forward"].update(Counter(visit.before) + Counter(visit.forward))
        for kind, count in visit.backward.items():
            sums["of weights" if " " in kind else "backward"][kind.partition(" ")[0]] += count
    words = f"a layer issues {counted(sums['forward'])} in forward and {counted(sums['backward'])} in backward"
    weights = counted(sums["of weights"])
    return words + (f", and {weights} for gradients of weights" if weights != "none" else "")


@dataclass
class _Graph:
    """Nodes as id and text, arrows as from, to, layout; `open` are nodes whose output nobody has taken yet."""

    nodes: list[tuple[str, str]] = field(default_factory=list)
    edges: list[tuple[str, str, str]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def add(self, name: str, text: str) -> None:
        self.nodes.append((name, text))
        self.open.append(name)

    def join(self, one: str, to: str, word: str) -> None:
        self.edges.append((one, to, word))
        if one in self.open:
            self.open.remove(one)


def _diagram(study: Study, row: Block) -> list[str]:
    kinds = {visit.name: visit.kind for visit in row.visits}
    names = list(kinds)
    leaves = [
        visit for visit in row.visits if not any(name.startswith(f"{visit.name}.") for name in names) and visit.name
    ]
    graph = _Graph()
    graph.add(IN, "input of the layer")
    between = _between(row, [visit.name for visit in leaves])
    gave: dict[int, str] = {}
    ids: dict[str, Visit] = {}
    for number, visit in enumerate(leaves):
        name = f"n{number}"
        source = gave.get(visit.takes)
        layout = _layout(visit.shape_in, visit.whole_in, row.tp)
        before = between[visit.name]
        if source is None and number:
            source = f"a{number}"
            waiting = [one for one in graph.open if one != IN]
            words = [f"own arithmetic of<br/>{kinds.get(visit.parent, row.kind)}"]
            graph.add(source, "<br/>".join([*words, *([f"forward: {_times(before)}"] if before else [])]))
            before = {}
            for one in waiting:
                graph.join(one, source, _layout(ids[one].shape_out, ids[one].whole_out, row.tp))
        graph.add(name, _text(visit, _style(study, row, visit), before))
        graph.join(source or IN, name, layout)
        ids[name] = visit
        if visit.gives:
            gave[visit.gives] = name
    after = next((visit.before for visit in row.visits if not visit.name), {})
    words = ["output of the layer", f"own arithmetic of {row.kind}", *([f"forward: {_times(after)}"] if after else [])]
    graph.add(OUT, "<br/>".join(words))
    for one in [one for one in graph.open if one != OUT]:
        layout = _layout(ids[one].shape_out, ids[one].whole_out, row.tp) if one in ids else ""
        graph.join(one, OUT, layout)
    return flow_diagram(graph.nodes, graph.edges)


def _between(row: Block, leaves: list[str]) -> dict[str, dict[str, int]]:
    """By leaf, the collectives of the arithmetic around it that were issued since the leaf before."""
    found: dict[str, dict[str, int]] = {}
    waiting: Counter[str] = Counter()
    for visit in row.visits:
        waiting.update(visit.before if visit.name else {})
        if visit.name in leaves:
            found[visit.name], waiting = dict(waiting), Counter()
        else:
            waiting.update(visit.forward)
    return found


def _layout(local: list[int], whole: list[int], tp: int) -> str:
    """The layout that a rank's shape shows beside the whole one."""
    if len(local) != len(whole) or not local:
        return "not seen"
    cut = [dim for dim, (mine, all_) in enumerate(zip(local, whole, strict=True)) if mine != all_]
    if not cut:
        return "Replicate"
    return f"Shard({cut[0]})" if len(cut) == 1 and local[cut[0]] * tp == whole[cut[0]] else "another shape"


def _text(visit: Visit, style: str, before: dict[str, int]) -> str:
    words = [visit.name.rpartition(".")[2], style, *([f"before it: {_times(before)}"] if before else [])]
    backward = {kind: count for kind, count in visit.backward.items() if " " not in kind}
    words += [
        f"{way}: {_times(counts)}" for way, counts in (("forward", visit.forward), ("backward", backward)) if counts
    ]
    return "<br/>".join(words)


def _times(counts: dict[str, int]) -> str:
    return ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in sorted(counts.items()))


def _style(study: Study, row: Block, visit: Visit) -> str:
    """The kind of style that the recorded plan of the same question gives to a module."""
    kind = SEQUENCE if row.sequence_parallel else PLAIN
    column = next(
        (found for run in study.of(kind) if run.question.model == row.model and (found := run.column(row.framework))),
        None,
    )
    if column is None:
        return place("plan not recorded")
    name = wildcard(f"{row.layer}.{visit.name}")
    rule = next((rule for rule in column.plan if rule.pattern == name and (rule.matched or not rule.placements)), None)
    return rule.kind.replace("_", " ") if rule else "no rule"


def by_kind(study: Study) -> list[list[str]]:
    """Rows of counts, forward to backward, by kind of collective: question, framework, one column a kind."""
    example = study.example()
    if example is None:
        return []
    runs = [example, *(run for run in study.of(SEQUENCE) if run.question.model == example.question.model)]
    rows = []
    for run in runs:
        for key in study.frameworks:
            column = run.column(key)
            if column is None or not column.collectives:
                continue
            total: Counter[str] = Counter()
            for phase in ("forward", "loss", "backward"):
                total.update(column.collectives.get(phase, {}))
            rows.append([str(run.question.layout), key, *(str(total[kind]) for kind in COLLECTIVES)])
    return rows


COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
