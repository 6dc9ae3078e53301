"""A model that nobody has a plan for: own names, one norm over all heads, a gate's halves in one weight."""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads = heads
        self.asks, self.answers, self.tells = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.calm = nn.LayerNorm(width)
        self.back = nn.Linear(width, width)

    def forward(self, x):
        def heads(y):
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        score = heads(self.calm(self.asks(x))) @ heads(self.answers(x)).transpose(-1, -2) / 3
        return self.back((score.softmax(-1) @ heads(self.tells(x))).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.mixer, self.first, self.second = Mixer(width), nn.Linear(width, 96), nn.Linear(48, width)

    def forward(self, x):
        x = x + self.mixer(x)
        gate, up = self.first(x).chunk(2, -1)
        return x + self.second(nn.functional.silu(gate) * up)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.blocks = nn.Embedding(40, 32), nn.ModuleList([Block(), Block()])
        self.reader = nn.Linear(32, 40, bias=False)

    def forward(self, ids):
        x = self.table(ids)
        for block in self.blocks:
            x = block(x)
        return self.reader(x)


def make():
    """The model and what it is called with."""
    torch.manual_seed(0)
    return Model(), torch.randint(0, 40, (2, 8))


def nothing():
    """No pair."""
    return None
