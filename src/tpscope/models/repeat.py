"""A model of fewer layers that stands for the whole: a start, periods of like layers, an end."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from tpscope.models.layers import keep, kinds, layers_of

_LONGEST_START, _LONGEST_PERIOD, _FEWEST_PERIODS = 6, 12, 5
_TEXT = ("text_config", "llm_config", "language_config")
_COUNTED_BACK = ("num_kv_shared_layers",)


@dataclass(frozen=True)
class Repeat:
    """`total` layers: `start`, then `periods` times `period` layers of the same kinds in the same order, then `end`."""

    total: int
    start: int
    period: int
    periods: int
    end: int

    def layers(self, periods: int) -> list[int]:
        """Numbers of the layers that stay where only so many periods do: the middle goes."""
        first = self.start + periods * self.period
        return [*range(first), *range(self.total - self.end, self.total)]


def repeat_of(config: dict[str, Any]) -> Repeat | None:
    """The shortest start, period and end that a config's layers can be told in, None where they do not repeat."""
    text = _text(config)
    total = layers_of(text)
    if total is None:
        return None
    found = kinds(text, total)
    options = [
        Repeat(total, start, period, count, total - start - count * period)
        for start in range(min(_LONGEST_START, total))
        for period in range(1, _LONGEST_PERIOD + 1)
        if (count := _count(found[start:], period)) >= _FEWEST_PERIODS
    ]
    return min(options, key=lambda it: (it.start + it.end + 2 * it.period, it.start), default=None)


def cut(config: dict[str, Any], repeat: Repeat, periods: int) -> dict[str, Any]:
    """The config with so many periods only. `config` itself is left as it is."""
    small = copy.deepcopy(config)
    text, kept = _text(small), repeat.layers(periods)
    window = text.get("max_window_layers")
    keep(text, repeat.total, kept)
    if isinstance(window, int):
        text["max_window_layers"] = len(kept) if window >= repeat.total else sum(index < window for index in kept)
    for key in _COUNTED_BACK:
        if isinstance(shared := text.get(key), int):
            text[key] = sum(index >= repeat.total - shared for index in kept)
    return small


def _text(config: dict[str, Any]) -> dict[str, Any]:
    return next((config[key] for key in _TEXT if isinstance(config.get(key), dict)), config)


def _count(kinds: list[Any], period: int) -> int:
    same = 0
    while (same + 1) * period <= len(kinds) and kinds[same * period : (same + 1) * period] == kinds[:period]:
        same += 1
    return same
