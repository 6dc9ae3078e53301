"""Run under torchrun: the bench over a framework of a few lines, whose cases die in the ways that real ones do."""

import os
import sys
import time

import torch
import torch.distributed as dist

from tpscope.bench import cases as table
from tpscope.bench import session
from tpscope.bench.__main__ import main
from tpscope.frameworks.inside.bench import subject


class Tiny(subject.Subject):
    """One linear layer whose output is summed over the ranks."""

    def __init__(self, wanted, device):
        super().__init__(wanted, device)
        self.model = torch.nn.Linear(8, 8)

    def losses(self):
        return ("sum", "raises", "exits", "hangs")

    def prepare(self, loss):
        self.how = loss

    def forward(self, ids):
        alone = dist.get_rank() == 1
        if self.how == "raises" and alone:
            raise RuntimeError("rank 1 raises and rank 0 waits for it")
        if self.how == "exits" and alone:
            os._exit(9)
        if self.how == "hangs":
            time.sleep(600)
        value = self.model(torch.ones(4, 8)).sum()
        dist.all_reduce(value.detach())
        return value

    def optimizer(self):
        return torch.optim.AdamW(self.model.parameters(), lr=0.0)


def planned(options, tp, models):
    build = table.Build("llama-3.1-8b", tp)
    return [table.Case(build, 64, loss) for loss in sys.argv[1].split(",")]


if __name__ == "__main__":
    subject.build = lambda family, wanted, device: Tiny(wanted, device)
    session.GRACE_SECONDS = 1.0
    sys.modules["tpscope.bench.__main__"].planned = planned
    sys.exit(main(["--rehearse", "--models", "llama-3.1-8b", "--repeats", "3", *sys.argv[2:]]))
