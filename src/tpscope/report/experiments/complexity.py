"""Section 2, computed: what choice and application run, which settings change the plan, what must be touched to have
another one, what is said about it, and how the code that does it is built.

python -m tpscope.report.experiments.complexity [--with nemo@0.7.0 ...]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tpscope.frameworks import overlay
from tpscope.frameworks.registry import Target
from tpscope.language.answer import TrailLine
from tpscope.report.experiments import asking
from tpscope.report.experiments.asking import Asker
from tpscope.report.experiments.complexity_rows import Complexity, Logged, Ran, Settings, Toggled, Way
from tpscope.report.experiments.patterns import patterns

# A model that NeMo has an optimized plan for, and one that it has none for.
MODELS = ("llama-3.1-8b", "mistral-7b")
TP = 2
_SECONDS = 600.0


def measure(asker: Asker, target: Target) -> Iterator[Complexity]:
    """One row, of all models together. What could not be asked is named in `failed`."""
    row = Complexity(**asker.head(target), tp=TP)
    failures: list[str] = []

    def ask(module: str) -> dict[str, Any]:
        found = {}
        for model in MODELS:
            answer = asker.ask(module, target, model, {}, _SECONDS, tp=TP)
            row.packages = dict(sorted(answer.packages.items())) or row.packages
            row.shims += [shim for shim in answer.shims if shim not in row.shims]
            if answer.error is None:
                found[model] = answer.value
            else:
                failures.append(f"{module} with {model}: {answer.error.kind}: {answer.error.message}")
        return found

    ran = ask("ran")
    row.models = {model: value["level"] for model, value in ran.items()}
    phases = {model: {phase["name"]: phase for phase in value["phases"]} for model, value in ran.items()}
    row.ran = [merged(name, [one[name] for one in phases.values()]) for name in ("choice", "application")]
    row.logged = said({model: value["logged"] for model, value in ran.items()})
    row.settings = settled(ask("settings"))
    row.ways = ways(ask("ways"))
    installed = overlay.installed(target)
    if installed is not None:
        row.patterns = patterns(installed.path, _lines([phase for one in phases.values() for phase in one.values()]))
    row.failed = "; ".join(failures)
    yield row


def _lines(phases: Sequence[Mapping[str, Any]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for phase in phases:
        for path, numbers in phase["lines"].items():
            found.setdefault(path, set()).update(numbers)
    return found


def merged(name: str, phases: Sequence[Mapping[str, Any]]) -> Ran:
    """One phase over all models: lines and functions that ran for any, branches that went both ways over all."""
    lines = {path: len(numbers) for path, numbers in sorted(_lines(phases).items())}
    ways: dict[tuple[str, int, str], set[str]] = {}
    for phase in phases:
        for one in phase["branches"]:
            mine = ways.setdefault((one["path"], one["line"], one["kind"]), set())
            mine.update(word for word in ("reached", "taken", "passed") if one[word])
    kinds = Counter(kind for _, _, kind in ways)
    reached = sum("reached" in mine for mine in ways.values())
    both = sum({"taken", "passed"} <= mine for mine in ways.values())
    return Ran(name, lines, max((one["functions"] for one in phases), default=0), dict(kinds), reached, both)


def said(logged: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Logged]:
    """Log records by the line that makes them, with the models for which they were made."""
    found: dict[tuple[str, str, int], Logged] = {}
    for model, records in logged.items():
        for one in records:
            where = TrailLine(**one["where"])
            record = Logged(one["phase"], one["level"], one["logger"], where, one["says"])
            found.setdefault((one["level"], where.path, where.line), record).models.append(model)
    return list(found.values())


def settled(values: Mapping[str, Mapping[str, Any]]) -> Settings | None:
    """What toggling each setting changed, over all models."""
    if not values:
        return None
    found: dict[tuple[str, str], Toggled] = {}
    for model, value in values.items():
        for one in value["toggled"]:
            mine = found.setdefault(
                (one["name"], one["value"]), Toggled(one["name"], one["value"], untried=one["untried"])
            )
            mine.plan += [model] if one["plan"] else []
            mine.placements += [model] if one["placements"] else []
            if one["raised"]:
                mine.raised[model] = one["raised"]
    first = next(iter(values.values()))
    steady = all(value["steady"] for value in values.values())
    stopped = list(dict.fromkeys(text for value in values.values() for text in value["stopped"]))
    return Settings(first["owner"], first["found_by"], steady, list(found.values()), stopped)


def ways(values: Mapping[str, Mapping[str, Any]]) -> list[Way]:
    """Every way to another plan, with the models that took it."""
    found: dict[tuple[str, ...], Way] = {}
    for model, value in values.items():
        for one in value["ways"]:
            mine = found.setdefault((one["editing"], *one["places"]), Way(one["editing"], one["places"], {}))
            mine.taken[model] = one["taken"]
            if one["raised"]:
                mine.raised[model] = one["raised"]
    return list(found.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment and record its rows."""
    return asking.main("complexity", "What choosing and applying a plan consists of.", measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
