"""Section 8: LoRA on a tensor-parallel model: whose code adds it, and how adapters lie beside the layers they adapt."""

from __future__ import annotations

from tpscope.language.verdict import Status
from tpscope.report.facts import Study, harm
from tpscope.report.rows import STYLE, TRANSLATED, Column
from tpscope.report.runs import ADAPTERS
from tpscope.report.sections.proofs import proved
from tpscope.report.sections.sequence import pair
from tpscope.report.text import ABSENT, at, code, not_yet, place, quote, table

TITLE = "LoRA compatibility"


def section(study: Study) -> list[str]:
    """What was added, by whom, where it lies, what the comparison says of it."""
    runs = study.of(ADAPTERS)
    if not runs:
        return [not_yet("compare").capitalize() + ".", ""]
    keys, lora = study.frameworks, runs[0].question.lora
    asked = f"r={lora.r}, alpha={lora.alpha}, targets {', '.join(lora.targets)}" if lora else "LoRA"
    lines = table(
        f"Asked for with TP={study.tp}: {asked}. Adapted modules counted on the full-size model.",
        ["model", *keys],
        [[f"`{run.question.model}`", *(_fate(run.column(key)) for key in keys)] for run in runs],
    )
    refused = [
        [key, f"`{run.question.model}`", column.error.message, at(column.error.where)]
        for run in runs
        for key in keys
        if (column := run.column(key)) and column.error is not None
    ]
    if refused:
        lines += table(
            "Where there is no answer: the words and the line.", ["framework", "model", "words", "line"], refused
        )
    lines += ["### Adapters beside their layers", ""]
    run = runs[0]
    lines += table(
        f"`{run.question.model}`: placement of each layer's weight and of its two adapter matrices, A and B, with "
        "what one rank holds of an adapter and what happened to its gradient over `tp`.",
        ["layer", *keys],
        [[f"`{layer}`", *(_cell(run.column(key), layer) for key in keys)] for layer in _layers(run.answers)],
    )
    said = [
        [key, item.severity.value, item.subject, item.words]
        for key in keys
        for one in runs[:1]
        for item in harm(one, key)
        if "dapter" in item.words or "lora" in item.subject.lower()
    ]
    if said:
        lines += table(
            f"What the comparison says of the adapters of `{run.question.model}`.",
            ["framework", "severity", "subject", "words"],
            said,
        )
    styles = [
        quote(item.where, f"{key}: ")
        for key in keys
        for item in [*study.cited(key, STYLE), *study.cited(key, TRANSLATED)]
        if "lora" in item.where.text.lower()
    ]
    if styles:
        lines += [
            "Style classes that are named for LoRA, and where they enter a plan, read in the source:",
            "",
            *styles,
            "",
        ]
    lines += ["### What it changes on the wire", ""]
    lines += table(
        "Collectives in forward and backward of the two-layer model, without and with LoRA, where both were observed.",
        ["model", "framework", "forward without", "forward with", "backward without", "backward with"],
        _wire(study),
    )
    return lines + proved(study, ("lora",), "an adapted, sharded model")


def _fate(column: Column | None) -> str:
    if column is None:
        return "not asked"
    if column.status != Status.OK:
        return f"**{column.status.value}**" + (f" in {column.error.phase}" if column.error else "")
    return f"{column.lora.modules} modules, by {code(column.lora.applied_by or 'unknown')}"


def _layers(columns: list[Column]) -> list[str]:
    names = [group.name for column in columns for group in column.parameters if ".lora_" in group.name]
    return list(dict.fromkeys(name.partition(".lora_")[0] for name in names))


def _cell(column: Column | None, layer: str) -> str:
    groups = {group.name: group for group in column.parameters} if column else {}
    base = groups.get(f"{layer}.weight")
    if base is None:
        return f"**{column.status.value}**" if column and column.status != Status.OK else ABSENT
    words = [f"layer {place(base.placement)}"]
    for letter in "AB":
        group = groups.get(f"{layer}.lora_{letter}.weight")
        if group is None:
            words.append(f"no {letter}")
        else:
            words.append(f"{letter} {place(group.placement)} {group.local_shape}, gradient {group.gradient_loop}")
    return "; ".join(words)


def _wire(study: Study) -> list[list[str]]:
    return [row for run in study.of(ADAPTERS) for key in study.frameworks if (row := pair(study, run, key))]
