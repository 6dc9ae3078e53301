"""Float noise for probing and proving: the proofs' jitter, without a step at whole numbers."""

from __future__ import annotations

import torch

from tpscope.frameworks.inside.proof.noise import Jitter

# How far above measured noise a difference has to be: the proofs' own margin (inside/proof/reference.py).
MARGIN = 32.0


class Noise(Jitter):
    """Half of all numbers one ulp smaller, whole numbers as they are: positions counted as floats stay right."""

    def _disturb(self, tensor: torch.Tensor) -> None:
        if any(stride == 0 for stride in tensor.stride()):
            return
        ulp = torch.finfo(tensor.dtype).eps
        bits = torch.randint(0, 2, tensor.shape, generator=self._generator, dtype=torch.uint8).to(torch.bool)
        tensor.mul_(1 - (bits & (tensor != tensor.round())).to(tensor.dtype) * ulp)
