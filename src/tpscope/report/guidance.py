"""Selection guidance: `tpscope recommend` over the typical questions of cases.toml, recorded.

python -m tpscope.report.guidance           ask what has no row yet, and write results/recommend.jsonl
python -m tpscope.report.guidance --again   ask everything (what was proved before comes from the cache)
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tpscope.errors import UserError
from tpscope.recommend.ask import Asked
from tpscope.recommend.result import Recommendation
from tpscope.recommend.run import recommend
from tpscope.report.advice import ADVICE, Advice, advice, read, write
from tpscope.report.prove_rows import hung
from tpscope.report.record import provenance
from tpscope.report.sweep import ROOT

CASES = Path(__file__).with_name("cases.toml")


class BadCase(ValueError):
    """A case of cases.toml that is not a question for `tpscope recommend`."""


@dataclass(frozen=True)
class Reader:
    """One kind of user: what they are after in one sentence, and what they would ask."""

    title: str
    after: str
    asks: tuple[Asked, ...]


@cache
def readers(path: Path = CASES) -> tuple[Reader, ...]:
    """The typical users, in the order of the file. Raises BadCase naming what cannot be read."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))["reader"]
        return tuple(
            Reader(item["title"], item["after"], tuple(_asked(ask) for ask in item["ask"])) for item in found
        )  # fmt: skip
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise BadCase(f"{path.name}: {error}") from error


def _asked(table: dict[str, object]) -> Asked:
    named = dict(table)
    return Asked(input=named.pop("model"), **named)  # type: ignore[arg-type]


def record(
    root: Path = ROOT,
    again: bool = False,
    say: Callable[[str], None] = print,
    ask: Callable[[Asked], Recommendation] = recommend,
) -> list[Advice]:
    """Ask every typical question and write its row as soon as it is there. Rows of other questions are dropped.

    An answer in which a proof ran into its time-out is not recorded.
    """
    kept = {} if again else {row.command: row for row in read(root)}
    made, rows = provenance(), []
    for reader in readers():
        for asked in reader.asks:
            row = kept.get(asked.command)
            if row is None:
                say(asked.command)
                answer = ask(asked)
                late = [case for item in answer.candidates for case in item.cases if hung(case)]
                if late:
                    # The machine had no time for it; a row would put that on the framework.
                    say(f"not recorded: {late[0].framework} {late[0].scenario} ran into its time-out; ask again")
                    continue
                row = advice(reader.title, answer, made)
            row.reader = reader.title
            rows.append(row)
            done = {item.command for item in rows}
            write(root, [*rows, *(item for item in kept.values() if item.command not in done)])
    write(root, rows)
    return rows


def missing(rows: Sequence[Advice]) -> list[str]:
    """Questions of cases.toml without a row, and rows that no question asks for, one sentence each."""
    have, want = {row.command for row in rows}, {asked.command for reader in readers() for asked in reader.asks}
    return [
        *(f"{ADVICE}: no row for {command}; run python -m tpscope.report.guidance" for command in sorted(want - have)),
        *(f"{ADVICE}: cases.toml does not ask {command}" for command in sorted(have - want)),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask and record. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tpscope.report.guidance", description="Typical questions, asked.")
    parser.add_argument("--again", action="store_true", help="ask what has a row as well")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose results/ are written")
    given = parser.parse_args(arguments)
    try:
        for row in record(given.root, given.again):
            print(f"{row.command}: {row.winner or 'nothing is recommended'}")
    except KeyboardInterrupt:
        print(f"stopped; the rows that are there stay in {ADVICE}", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"tpscope: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
