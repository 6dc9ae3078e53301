"""What the row of every experiment has."""

from __future__ import annotations

from dataclasses import dataclass, field

from tpscope.report.rows import File, Provenance


@dataclass(kw_only=True)
class Measured:
    """One row of an experiment about one framework. A subclass names its kind in `row` and adds what was found.

    `command` repeats it, `--with` of this framework alone. `packages` are those it ran with. `files` are the source
    files that lines of this row stand in, `shims` where tpscope stood in for something. `failed` says why there is
    nothing else, where the experiment could not run.
    """

    framework: str
    command: str
    made: Provenance
    packages: dict[str, str] = field(default_factory=dict)
    files: list[File] = field(default_factory=list)
    shims: list[str] = field(default_factory=list)
    failed: str = ""
    row: str = ""
