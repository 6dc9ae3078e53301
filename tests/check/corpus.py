"""Thirty configs of our own writing, half of them with one seeded mistake or known bug each.

`python tests/check/corpus.py` checks all of them with their proofs and prints what was found.
"""

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tpscope.check.ask import Asked
from tpscope.check.result import Severity
from tpscope.check.run import check

FOLDER = Path(__file__).parents[1] / "data" / "check"
GOOD = sorted(FOLDER.glob("*/good/*.y*ml"))
BAD = sorted(FOLDER.glob("*/bad/*.y*ml"))


@dataclass(frozen=True)
class Seeded:
    """The mistake of a file: the key that it is at, and a part of the remedy."""

    key: str
    remedy: str


SEEDED = {
    "axolotl/bad/lora-target.yml": Seeded("lora_target_modules", "q_proj"),
    "axolotl/bad/misspelt-tp.yml": Seeded("tensor_paralel_size", "write tensor_parallel_size: 2"),
    "axolotl/bad/tp-fsdp.yml": Seeded("tensor_parallel_size", "write tensor_parallel_size: 1"),
    "axolotl/bad/tp-heads.yml": Seeded("tensor_parallel_size", "write tensor_parallel_size: 1"),
    "axolotl/bad/tp-lora.yml": Seeded("adapter", "tensor_parallel_size: 1"),
    "axolotl/bad/tp-qk-norm.yml": Seeded("tensor_parallel_size", "tensor_parallel_size: 1"),
    "axolotl/bad/tp-tied.yml": Seeded("tensor_parallel_size", "write tensor_parallel_size: 1"),
    "axolotl/bad/world-not-divisible.yml": Seeded("dp_shard_size", "write dp_shard_size: 4"),
    "nemo/bad/lora-target.yaml": Seeded("peft.target_modules", "q_proj"),
    "nemo/bad/misspelt-peft.yaml": Seeded("peft.dims", "write dim: 8"),
    "nemo/bad/misspelt-tp.yaml": Seeded("distributed.tp_sise", "write tp_size: 2"),
    "nemo/bad/pp-schedule.yaml": Seeded("distributed.pipeline.pp_schedule", "write pp_schedule: Interleaved1F1B"),
    "nemo/bad/qk-norm.yaml": Seeded("distributed.tp_size", "0.7.0"),
    "nemo/bad/replicate-not-dividing.yaml": Seeded("distributed.dp_size", "write dp_replicate_size: 1, 2 or 4"),
    "nemo/bad/sequence-parallel-ignored.yaml": Seeded(
        "distributed.sequence_parallel", "write sequence_parallel: false"
    ),
}


def asked(path, prove):
    """The check that the first line of a file asks for."""
    words = shlex.split(path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# tpscope:"))
    flags = dict(zip(words[::2], words[1::2], strict=True))
    return Asked(path, int(flags["--world"]), flags.get("--with"), prove=prove)


def name_of(path):
    """A file by its name in the corpus."""
    return str(path.relative_to(FOLDER))


def found(result, seeded):
    """True if a finding that is more than a note stands at the seeded key and has the remedy."""
    return any(
        finding.key == seeded.key and finding.severity is not Severity.NOTE and seeded.remedy in finding.remedy
        for finding in result.findings
    )


def main():
    """Check every file with its proofs; exit 1 if a mistake is missed or a good file is alarmed at."""
    wrong = 0
    for path in [*GOOD, *BAD]:
        started = time.monotonic()
        result = check(asked(path, True))
        seeded = SEEDED.get(name_of(path))
        right = found(result, seeded) if seeded else not result.bad
        wrong += not right
        seconds = time.monotonic() - started
        verdict = result.verdict.value if result.verdict else "-"
        print(
            f"{'ok ' if right else 'BAD'} {seconds:5.0f} s  {result.runs.value:<14} {verdict:<12} {name_of(path)}",
            flush=True,
        )
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
