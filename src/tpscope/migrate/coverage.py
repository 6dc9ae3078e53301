"""How much of a folder of configs the mapping knows.

    python -m tpscope.migrate.coverage FOLDER

Counts key occurrences (every leaf of every training YAML below FOLDER) by framework, and lists those that no row has.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tpscope.errors import UserError
from tpscope.migrate.rows import row_of
from tpscope.migrate.source import read


@dataclass
class Coverage:
    """Occurrences of keys of one framework's configs: all of them, those without a row, and files that are unread."""

    files: int = 0
    keys: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Known occurrences over all, 1.0 where there are none."""
        total = self.keys.total()
        return 1 - self.unknown.total() / total if total else 1.0


def coverage(folder: Path) -> tuple[dict[str, Coverage], list[str]]:
    """By framework, with one sentence for every file that is of neither or cannot be read."""
    found: dict[str, Coverage] = {"axolotl": Coverage(), "nemo": Coverage()}
    skipped: list[str] = []
    for path in sorted(item for ending in ("*.yml", "*.yaml") for item in folder.rglob(ending)):
        try:
            source = read(path)
        except UserError as error:
            skipped.append(str(error))
            continue
        counted = found[source.kind]
        counted.files += 1
        for leaf in source.leaves:
            counted.keys[leaf.pattern] += 1
            if row_of(source.kind, leaf.pattern) is None:
                counted.unknown[leaf.pattern] += 1
    return found, skipped


def main(arguments: list[str] | None = None) -> int:
    """Print the counts. Returns 1 where less than 95 % are known on a side."""
    parser = argparse.ArgumentParser(prog="python -m tpscope.migrate.coverage", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder with training YAMLs, at any depth")
    parser.add_argument("--skipped", action="store_true", help="also say why a file was left out")
    asked = parser.parse_args(arguments)
    found, skipped = coverage(asked.folder)
    for kind, counted in found.items():
        total = counted.keys.total()
        known = total - counted.unknown.total()
        print(f"{kind}: {counted.files} files, {known} of {total} key occurrences known ({100 * counted.share:.2f} %)")
        for key, times in counted.unknown.most_common():
            print(f"  {times:5} {key}")
    print(f"left out: {len(skipped)} files" + (":" if asked.skipped else ""))
    for sentence in skipped if asked.skipped else ():
        print(f"  {sentence}")
    return 0 if all(counted.share >= 0.95 for counted in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
