"""A derived plan in the terminal: the verdict first, then the table, why, what stays whole, and the proof."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tpscope.language.sharding import EdgeKind, Region, Share
from tpscope.language.verdict import Verdict
from tpscope.plan.result import Cost, Derived, PlanCase, PlanProof, Review, Severity

WIDEST = 160
_MOST_WRONG = 5
_CROSSED = {EdgeKind.GATHER: "gathered", EdgeKind.SPLIT: "split"}


def show(result: Derived, console: Console) -> None:
    """Print a plan with its reasons and its proof."""
    console.width = min(console.width, WIDEST)
    case = result.case
    console.print(_headline(result, case), highlight=False)
    if case is not None:
        console.print(f"{result.model}  {result.answer.architecture}, tp={result.tp}", highlight=False)
        for asked in case.tried:
            taken = ("source  ", "bold green") if asked.taken else ("source  ", "dim")
            origin = f" ({asked.origin})" if asked.origin else ""
            console.print(Text.assemble(taken, f"{asked.source.value}{origin}: {asked.outcome}"), highlight=False)
        console.print(_table(case), highlight=False)
        for region in case.plan.regions:
            if region.why:
                console.print(Text.assemble(("region  ", "bold"), f"{region.exits[0]}: {region.why}"), highlight=False)
            for edge in region.edges:
                line = f"activations are {_CROSSED[edge.kind]} at the {edge.side.value} of {edge.module}"
                console.print(Text.assemble(("edge    ", "bold"), line), highlight=False)
            for name, divisor in region.settings.items():
                console.print(f"        {name} is divided by {divisor}", highlight=False)
        for item in case.plan.whole:
            console.print(Text.assemble(("whole   ", "yellow"), f"{item.pattern}: {item.why}"), highlight=False)
        for line in _proof(case.proof):
            console.print(Text.assemble(("proof   ", "bold"), line), highlight=False)
        for index, cost in enumerate(case.costs):
            who = "this plan" if index == 0 else "as shipped"
            console.print(Text.assemble(("sends   ", "bold"), f"{who}: {_sent(cost)}"), highlight=False)
        if case.misfit:
            console.print(Text.assemble(("misfit  ", "bold red"), case.misfit), highlight=False)
        if case.spelling is not None:
            for name, why in case.spelling.refused.items():
                console.print(Text.assemble(("refused ", "bold red"), f"{name}: {why}"), highlight=False)
            for name, why in case.spelling.dearer.items():
                console.print(Text.assemble(("dearer  ", "yellow"), f"{name}: {why}"), highlight=False)
        for run in case.through:
            style = "bold green" if run.verdict is Verdict.EQUAL else "bold red"
            line = f"{run.framework} runs the written plan: {run.verdict.value}, {run.sentence}"
            console.print(Text.assemble(("through ", style), line), highlight=False)
    for note in result.notes:
        console.print(Text.assemble(("note    ", "dim"), note), highlight=False)
    versions = ", ".join(f"{name} {number}" for name, number in result.environment.items())
    console.print(Text.assemble(("again   ", "dim"), f"{result.command}   ({versions})"), highlight=False)


def _headline(result: Derived, case: PlanCase | None) -> Text:
    if case is None:
        return Text.assemble(("NO PLAN  ", "bold red"), result.answer.error)
    if not case.plan.regions:
        return Text.assemble(("NO PLAN  ", "bold red"), "nothing in this model falls into independent parts")
    if case.proof.verdict is Verdict.EQUAL:
        more = "" if not case.misfit else ", and does not fit the published sizes"
        style = "bold green" if not case.misfit else "bold red"
        return Text.assemble(("PROVEN  ", style), f"{case.fraction:.2%} of the parameters are cut{more}")
    return Text.assemble((f"{case.proof.verdict.value.upper()}  ", "bold red"), case.proof.error or "see the proof")


def _table(case: PlanCase) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("parameter", no_wrap=True)
    for head in ("on a rank", "gradient", "why"):
        table.add_column(head, overflow="fold")
    for region in case.plan.regions:
        for name, share in region.shares.items():
            table.add_row(name, _held(region, share, case.tp), "sum" if share.summed else "-", share.why)
        table.add_section()
    return table


def _held(region: Region, share: Share, tp: int) -> str:
    if share.cut is None:
        return "whole, counted once" if share.once else "whole"
    segments = share.cut.segments
    text = f"1/{tp} of dim {share.cut.dim}"
    if len(segments) > 1:
        text += " in each of " + "+".join(str(segment.length) for segment in segments)
    if share.cut.overlaps:
        text = f"a slice of dim {share.cut.dim} that {max(segment.copies for segment in segments)} ranks hold"
    return text


def _proof(proof: PlanProof) -> list[str]:
    if proof.error:
        return [proof.error]
    largest = max(proof.loss_error, proof.gradient_error)
    lines = [
        f"loss and {proof.compared} gradients of every rank against the unsharded model: {proof.verdict.value}, in "
        "float64, by tpscope's engine, on a small model of the same structure; the largest difference is "
        f"{'below' if largest <= 1 else f'{largest:.2g} times'} the tolerance (32 x measured noise)"
    ]
    lines += [f"wrong: {name}, {error:.2g} x tolerance" for name, error in list(proof.wrong.items())[:_MOST_WRONG]]
    if proof.controls:
        seen = sum(proof.controls.values())
        lines.append(f"broken on purpose in {len(proof.controls)} ways, found {seen}: {'; '.join(proof.controls)}")
    calls = ", ".join(f"{count} {kind}" for kind, count in proof.collectives.items())
    lines.append(f"collectives of the small model, forward, loss and backward: {calls}")
    if proof.dead:
        lines.append(f"nothing is proven of {', '.join(proof.dead)}: the true gradient is no larger than noise")
    return lines


def _sent(cost: Cost) -> str:
    if cost.scale != "published":
        return f"not known, the model does not run without numbers ({cost.why})"
    kinds = ", ".join(f"{count} {kind}" for kind, count in cost.kinds.items())
    return (
        f"{cost.layer_calls:g} collectives and {cost.layer_bytes / 2**20:.0f} MiB a layer and step, "
        f"{kinds} and {cost.bytes / 2**30:.2f} GiB in all (published sizes, {cost.tokens} tokens, bfloat16)"
    )


_SHOWN = {Severity.WRONG: "bold red", Severity.WASTE: "yellow", Severity.NOTE: "dim"}


def reviewed(result: Review, console: Console) -> None:
    """Print a review: one finding a paragraph, each with its line."""
    console.width = min(console.width, WIDEST)
    counts = {kind: sum(item.severity is kind for item in result.findings) for kind in Severity}
    if result.error:
        console.print(Text.assemble(("NOT REVIEWED  ", "bold red"), result.error), highlight=False)
    elif result.bad:
        console.print(
            Text.assemble(("BAD  ", "bold red"), f"{counts[Severity.WRONG]} wrong, {counts[Severity.WASTE]} wasted")
        )
    else:
        console.print(Text.assemble(("GOOD  ", "bold green"), "nothing wrong or wasted was found"))
    console.print(f"{result.file} for {result.model} {result.architecture}, tp={result.tp}", highlight=False)
    for item in result.findings:
        head = f"{result.file}:{item.line}: {item.severity.value}: {item.what}: {item.pattern}"
        console.print(Text(head, style=_SHOWN[item.severity]), soft_wrap=True, highlight=False)
        console.print(f"    {item.why}", highlight=False)
        console.print(f"    remedy: {item.remedy}", highlight=False)
    if result.proof is not None:
        for line in _proof(result.proof):
            console.print(Text.assemble(("proof   ", "bold"), line), highlight=False)
    for note in result.notes:
        console.print(Text.assemble(("note    ", "dim"), note), highlight=False)
    versions = ", ".join(f"{name} {number}" for name, number in result.environment.items())
    console.print(Text.assemble(("again   ", "dim"), f"{result.command}   ({versions})"), highlight=False)
