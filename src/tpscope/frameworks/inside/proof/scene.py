"""What is known after one watched run of a case that is different."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tpscope.frameworks.inside.proof.border import Border
from tpscope.frameworks.inside.proof.driver import Work
from tpscope.frameworks.inside.proof.facing import Facing
from tpscope.frameworks.inside.proof.record import Records
from tpscope.frameworks.inside.proof.reference import Grads, Place, Reference
from tpscope.frameworks.inside.proof.round import Round

Pairs = dict[Place, tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Scene:
    """What is known after one watched run. `ranks`: the different gradients of each tp rank. `shares`: for each of
    them, this rank's gradient and its expected share of every micro-batch's."""

    work: Work
    now: Round
    reference: Reference
    facing: Facing
    ranks: list[Grads]
    shares: dict[str, Pairs]
    borders: list[Border]
    whole: Records | None
    values: dict[str, float]
