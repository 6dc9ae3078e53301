"""After the sections: how to repeat it, where tpscope stood in for something, torch, and the files behind quotes."""

from __future__ import annotations

from typing import Any

from tpscope.report.facts import Study, label
from tpscope.report.text import listed, table, together

REPEAT, SHIMS, TORCH, FILES = (
    "Appendix A: how to repeat it", "Appendix B: stand-ins", "Appendix C: packages outside their range",
    "Appendix D: files",
)  # fmt: skip


def repeat(study: Study) -> list[str]:
    """The commands."""
    lines = [
        "`make study` runs everything below and writes this file again; answers that were given before come from "
        "the cache. One comparison by itself:",
        "",
        "```",
        *dict.fromkeys(run.command for run in study.runs),
        "```",
        "",
    ]
    if study.experiments:
        commands = dict.fromkeys(row.command for row in study.experiments)
        lines += [
            "The experiments (what they measure themselves is never taken from a cache):",
            "",
            "```",
            *commands,
            "```",
            "",
        ]
    made = dict.fromkeys((one.commit, one.date, _machine(one.hardware)) for one in study.made())
    lines += table(
        "What the recorded rows say of themselves.",
        ["commit", "date", "machine"],
        [[f"`{commit}`", date, hardware] for commit, date, hardware in made],
    )
    return lines


def _machine(hardware: dict[str, Any]) -> str:
    if "device" in hardware:
        return str(hardware["device"])
    return f"{hardware.get('cpus')} cpus, {hardware.get('platform')}, Python {hardware.get('python')}"


def shims(study: Study) -> list[str]:
    """Every place where tpscope stood in for the launcher or the hardware."""
    found: dict[str, list[str]] = {}
    for column in (column for run in study.runs for column in run.answers):
        for text in column.shims:
            found.setdefault(text, []).append(column.id)
    for row in study.experiments:
        for text in row.shims:
            found.setdefault(text, []).append(row.framework)
    return table(
        "Places where tpscope stood in for something of the launcher or the hardware; nothing else of a framework "
        "was changed.",
        ["stand-in", "framework"],
        [[text, listed(keys)] for text, keys in found.items()],
    )


def torch(study: Study) -> list[str]:
    """Packages that ran outside the range that a framework declares, and what hangs on it."""
    rows = []
    for key in study.frameworks:
        items = {
            (item["package"], item["version"], item["declared"])
            for column in study.columns(key)
            for item in column.outside_pin
        }
        failed = [
            label(run)
            for run in study.runs
            if (column := run.column(key)) and (column.status.value == "crashed" or column.loop_error)
        ]
        for package, version, declared in sorted(items):
            rows.append([key, package, version, f"`{declared}`", together(failed)])
    if not rows:
        return ["Every package ran inside the range that its framework declares.", ""]
    return table(
        "Packages that ran at a version outside the range that the framework declares. A crash or a stopped "
        "training loop listed here may come from that, until it is repeated inside the range.",
        ["framework", "package", "ran", "declared", "crashes and stopped loops that carry this caveat"],
        rows,
    )


def files(study: Study) -> list[str]:
    """The sha256 of every file whose lines are quoted."""
    rows = {(row.framework, file.path): file for row in study.sources for file in row.files}
    rows |= {(row.framework, file.path): file for row in study.experiments for file in row.files}
    return table(
        "Source files whose lines ran and are quoted: lines and sha256 of the installed file, to check a quote "
        "against.",
        ["framework", "file", "lines", "sha256"],
        [
            [framework, f"`{file.path}`", str(file.lines), f"`{file.sha256[:16]}...`"]
            for (framework, _), file in rows.items()
        ],
    )
