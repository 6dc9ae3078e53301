"""How a program that records ends: with its exit code, in one sentence, and with what was recorded kept."""

from __future__ import annotations

import sys
from collections.abc import Callable

from tpscope.errors import UserError

STOPPED = 130


def ended(work: Callable[[], int], kept: object) -> int:
    """The exit code of `work`, or of the user's mistake or Ctrl-C that ended it. `kept`: the rows' file."""
    try:
        return work()
    except KeyboardInterrupt:
        print(f"stopped; the rows that are there stay in {kept}", file=sys.stderr)
        return STOPPED
    except UserError as error:
        print(f"tpscope: {error}", file=sys.stderr)
        return error.exit_code
