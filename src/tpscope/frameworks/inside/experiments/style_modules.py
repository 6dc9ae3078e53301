"""Small modules that the styles are tried on: each has what one style was written for, and nothing else."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

# No two sizes are the same, so that a transposed or a wrongly sharded tensor cannot fit by chance; 2 divides each.
BATCH, SEQUENCE, HIDDEN, HEADS, HEAD, RANK, EXPERTS, WORDS = 3, 8, 12, 2, 10, 4, 6, 14


def filled(module: nn.Module) -> nn.Module:
    """The module with float64 parameters, the same on every rank and at every call, none at its initial value."""
    module.double()
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        random = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(random + 0.5)
    return module


class Norm(nn.Module):
    """Root mean square norm over the last dimension, in plain operations."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., width] to the same."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class NormFeedsLinear(nn.Module):
    """A norm before a column-parallel linear, as before attention and feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm(HIDDEN)
        self.up = nn.Linear(HIDDEN, 2 * HEAD, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, seq, hidden] to [batch, seq, up]."""
        return self.up(self.norm(x))


class HeadNorm(nn.Module):
    """A norm of each head of a query, as in Qwen3."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD, bias=False)
        self.q_norm = Norm(HEAD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, seq, hidden] to [batch, seq, heads, head]."""
        return self.q_norm(self.q_proj(x).view(BATCH, SEQUENCE, -1, HEAD))


class Rotary(nn.Module):
    """Cosine and sine of the positions; of the hidden states it takes dtype and device, as transformers' classes do."""

    inv_freq: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 100.0 ** -(torch.arange(HEAD // 2) / (HEAD // 2)), persistent=False)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, seq, hidden] and [batch, seq] to two of [batch, seq, head]."""
        angles = positions[:, :, None].to(x.dtype) * self.inv_freq[None, None, :]
        both = torch.cat((angles, angles), dim=-1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)


class Adapted(nn.Linear):
    """A frozen linear with a LoRA adapter inside, its base weight at its own name."""

    def __init__(self, wide: int, narrow: int):
        super().__init__(wide, narrow)
        self.lora_A = nn.Linear(wide, RANK, bias=False)
        self.lora_B = nn.Linear(RANK, narrow, bias=False)
        self.weight.requires_grad_(False)
        assert self.bias is not None
        self.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., wide] to [..., narrow]; the scale stands between the adapter's two halves."""
        return functional.linear(x, self.weight, self.bias) + self.lora_B(self.lora_A(x) * 2.0)


class Experts(nn.Module):
    """One weight for all experts. Like a framework's own experts, it works on those that are here."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(EXPERTS, HIDDEN, HEAD))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[experts, tokens, hidden] to [experts, tokens, head]."""
        weight = self.weight.to_local() if isinstance(self.weight, DTensor) else self.weight
        return torch.bmm(x, weight)


class ScaledEmbedding(nn.Embedding):
    """An embedding whose output is multiplied by a buffer, as in Gemma."""

    embed_scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__(WORDS, HIDDEN, padding_idx=0)
        self.register_buffer("embed_scale", torch.tensor(3.0), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[batch, seq] to [batch, seq, hidden]."""
        return super().forward(ids) * self.embed_scale.to(self.weight.dtype)
