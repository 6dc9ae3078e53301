"""A plan: which module gets which style, and who said so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from tpscope.language.evidence import Evidence
from tpscope.language.style import Style


@dataclass(frozen=True)
class Rule:
    """One row of a plan: a module (or parameter) pattern and its style. `*` stands for one name between dots."""

    pattern: str
    style: Style
    evidence: Evidence | None = None

    def matches(self, name: str) -> bool:
        """True if a module, or a parameter of it or in it, called `name`, falls under this rule."""
        return bool(_regex(self.pattern).match(name))


@lru_cache(maxsize=4096)
def _regex(pattern: str) -> re.Pattern[str]:
    parts = [r"[^.]+" if part == "*" else re.escape(part) for part in pattern.split(".")]
    return re.compile(r"\.".join(parts) + r"(?:\.|$)")


@dataclass(frozen=True)
class Plan:
    """An ordered table of rules, where it came from, and the sources that were asked before."""

    rules: tuple[Rule, ...]
    source: str
    asked: tuple[str, ...] = ()

    def rule_for(self, name: str) -> Rule | None:
        """The rule that decides about a parameter: the longest matching pattern; among equals the last."""
        found = [rule for rule in self.rules if rule.matches(name)]
        return max(found, key=lambda rule: rule.pattern.count("."), default=None)


def wildcard(name: str) -> str:
    """A parameter or module name with every number between dots replaced by `*`."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)
