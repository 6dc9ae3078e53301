"""The rules of the guide (guide.toml), and which recorded rows each of them needs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from tpscope import bugs
from tpscope.prove.faults import CARRIER, FAULTS, Fault

RULES = Path(__file__).with_name("guide.toml")
_STRICT = ConfigDict(extra="forbid")


class BadRule(ValueError):
    """A guide.toml that does not say what a rule must say."""


@checked(frozen=True, config=_STRICT)
class Released:
    """A released version that breaks a rule, by an entry of the bug book, and one that keeps it (`right`)."""

    bug: str
    framework: str
    model: str
    scenario: str = "plain"
    tp: int = 2
    right: str = ""


@checked(frozen=True, config=_STRICT)
class Rule:
    """One rule: our sentences, the part of a plan that it is about, the faults and versions that break it."""

    id: str
    name: str
    title: str
    why: str
    shows: list[str]
    faults: list[str] = field(default_factory=list)
    model: str = ""
    released: list[Released] = field(default_factory=list)


@checked(frozen=True, config=_STRICT)
class Text:
    """A title with its sentences."""

    title: str
    why: str


@checked(frozen=True, config=_STRICT)
class NotARule:
    """A fault of the self-test that breaks no rule of a plan, and why."""

    fault: str
    why: str


@checked(frozen=True, config=_STRICT)
class Guide:
    """All of guide.toml."""

    test: Text
    rule: list[Rule]
    not_a_rule: list[NotARule] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """A plan that the guide shows: of a framework for a model at a layout."""

    framework: str
    model: str
    tp: int = 2
    sequence_parallel: bool = False


@cache
def load(path: Path = RULES) -> Guide:
    """The guide's rules. Raises BadRule naming what is wrong."""
    try:
        return TypeAdapter(Guide).validate_python(_named(tomllib.loads(path.read_text(encoding="utf-8"))))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise BadRule(f"{path.name}: {error}") from error


def _named(table: dict[str, list[dict[str, list[dict[str, str]]]]]) -> dict[str, object]:
    """`with` is what the bug book calls a framework; Python has the word for itself."""
    for rule in table.get("rule", []):
        for item in rule.get("released", []):
            if "with" in item:
                item["framework"] = item.pop("with")
    return dict(table)


def fault(kind: str) -> Fault | None:
    """A fault of the self-test by its kind, None if there is none."""
    return next((item for item in FAULTS if item.kind == kind), None)


def plans(guide: Guide) -> list[Wanted]:
    """Every plan that the guide shows, each once."""
    found = []
    for rule in guide.rule:
        found += [broken_plan(rule)] if rule.faults else []
        found += [plan for item in rule.released for plan in released_plans(item)]
    return list(dict.fromkeys(found))


def broken_plan(rule: Rule) -> Wanted:
    """The plan into which the self-test puts a rule's first fault."""
    return Wanted(CARRIER, rule.model)


def released_plans(item: Released) -> Iterator[Wanted]:
    """The plan of the version that breaks a rule, and of the one that keeps it."""
    for framework in filter(None, (item.framework, item.right)):
        yield Wanted(framework, item.model, item.tp, "sequence-parallel" in item.scenario)


def proofs(guide: Guide) -> list[tuple[str, str, str, int]]:
    """Every proof that the guide cites: framework, model, scenario, tp."""
    found = [
        (framework, item.model, item.scenario, item.tp)
        for rule in guide.rule
        for item in rule.released
        for framework in filter(None, (item.framework, item.right))
    ]
    return list(dict.fromkeys(found))


def uncovered(guide: Guide) -> list[str]:
    """What guide.toml leaves out or misspells, one sentence each."""
    named = [kind for rule in guide.rule for kind in rule.faults]
    apart = [item.fault for item in guide.not_a_rule]
    kinds, known = {item.kind for item in FAULTS}, {bug.id for bug in bugs.load()}
    found = [f"{kind}: no rule has this fault of the self-test" for kind in sorted(kinds - {*named, *apart})]
    found += [f"{kind}: is no fault of the self-test" for kind in sorted({*named, *apart} - kinds)]
    found += [f"{kind}: is in a rule, and listed as not a rule" for kind in sorted({*named} & {*apart})]
    for rule in guide.rule:
        found += [f"rule {rule.id}: no plan that breaks it is named"] if not (rule.faults or rule.released) else []
        found += [f"rule {rule.id}: has faults and names no model"] if rule.faults and not rule.model else []
        found += [f"rule {rule.id}: {item.bug} is not in bugs/" for item in rule.released if item.bug not in known]
    return [f"{RULES.name}: {words}" for words in found]
