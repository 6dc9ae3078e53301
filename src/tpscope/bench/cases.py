"""What is measured, as data, and in which order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tpscope.errors import UserError

SEQUENCES = (2048, 4096, 8192)
MODELS = ("llama-3.1-8b", "qwen3-8b")
DEFAULT_LOSS = ""


@dataclass(frozen=True)
class Build:
    """One model as a framework builds it. Cases that share it are measured one after the other on the same weights."""

    model: str
    tp: int
    sequence_parallel: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Case:
    """One measurement. `loss` is the framework's default where it is empty. `tier` 0 is worth most."""

    build: Build
    sequence: int
    loss: str = DEFAULT_LOSS
    batch: int = 1
    tier: int = 0

    @property
    def name(self) -> str:
        """How a user reads it."""
        parts = [self.build.model, f"tp={self.build.tp}", f"seq={self.sequence}"]
        parts += ["sequence-parallel"] if self.build.sequence_parallel else []
        parts += ["compiled"] if self.build.compiled else []
        return " ".join([*parts, *([self.loss] if self.loss else [])])


# Losses that a framework carries beside its default, and from how many ranks to how many it computes them at all:
# NeMo's losses that take the head's weight refuse one that is cut over tp.
_LOSSES = {
    "nemo": {"TEParallelCrossEntropy": (1, 8), "ChunkedCrossEntropy": (1, 1)},
    "transformers": {"LigerFusedLinearCrossEntropy": (1, 8)},
    "tpscope": {},
}
_SEQUENCE_PARALLEL = ("nemo", "tpscope")


def standard(family: str, tp: int, models: Sequence[str] = MODELS, sequences: Sequence[int] = SEQUENCES) -> list[Case]:
    """Tier 0: eager, with and without sequence parallel, the longest sequence with every loss; 1: compiled; 2: compiled
    with sequence parallel. Raises UserError for a family that bench does not drive."""
    if family not in _LOSSES:
        raise UserError(f"--family {family}: bench drives {', '.join(_LOSSES)}; name one of these")
    modes = [False, True] if family in _SEQUENCE_PARALLEL and tp > 1 else [False]
    losses = [loss for loss, (least, most) in _LOSSES[family].items() if least <= tp <= most]
    found: list[Case] = []
    for model in models:
        for compiled in (False, True):
            for parallel in modes:
                build = Build(model, tp, parallel, compiled)
                found += [Case(build, length, tier=compiled * (1 + parallel)) for length in sequences]
        found += [Case(Build(model, tp), max(sequences), loss) for loss in losses]
    return found


def shuffled(cases: Sequence[Case], seed: int) -> list[Case]:
    """An order in which no setting is always early or always late: tiers in turn, inside a tier the models as built in
    random order, inside each its cases in random order."""
    generator = random.Random(seed)
    builds = sorted({(case.tier, case.build) for case in cases}, key=str)
    generator.shuffle(builds)
    found: list[Case] = []
    for tier, build in sorted(builds, key=lambda item: item[0]):
        mine = [case for case in cases if case.tier == tier and case.build == build]
        generator.shuffle(mine)
        # A loss that is not the default may leave its marks on the model: it comes last.
        found += sorted(mine, key=lambda case: case.loss)
    return found
