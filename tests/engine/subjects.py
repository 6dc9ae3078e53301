"""Small models in float64, batches that tell right from wrong, and how a rank's gradients stand to the whole ones."""

import torch
import torch.distributed as dist

from tpscope.engine.collectives import ProcessAxis
from tpscope.engine.held import local, parts
from tpscope.engine.parallelize import parallelize
from tpscope.engine.slices import take
from tpscope.models.read import read
from tpscope.models.shrink import shrink
from tpscope.plan import files
from tpscope.plan.inside.answer import default_config
from tpscope.plan.inside.subject import build

# Norms compute in float32 whatever the weights are.
CLOSE = 1e-6


def config(name, **changes):
    if name == "gpt2":
        return {**default_config(name), **changes}
    return {**shrink(read(name)[0].config, experts=4).config, **changes}


def whole(name, **changes):
    return build(config(name, **changes))


def sharded(name, plan, changes=None, **options):
    """The same weights on this rank's slices, as `tpscope.parallelize` runs them."""
    model = whole(name, **(changes or {}))
    settings = {"logits": "deferred", "sums": "step", **options}
    parallelize(model, ProcessAxis(settings.pop("group", None)), files.read(plan, "plan"), **settings)
    return model


def batch(model, seed=0, length=12, samples=2):
    """Token ids and labels, some of which do not count: another number for every seed."""
    generator = torch.Generator().manual_seed(100 + seed)
    ids = torch.randint(3, model.config.vocab_size, (samples, length), generator=generator)
    labels = ids.clone()
    labels[:, : 1 + seed % 4] = -100
    return {"input_ids": ids, "labels": labels}


def loss(model, given):
    """The next-token loss in float64; the model's own is in float32."""
    logits = model(input_ids=given["input_ids"]).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), given["labels"][:, 1:].reshape(-1))


def gradients(model):
    return {part.name: local(part.tensor.grad).clone() for part in parts(model) if part.tensor.grad is not None}


def mine(tensor, part, rank, ranks):
    return tensor if part.held.cut is None else take(tensor, part.held.cut, rank, ranks)


def wrong(model, wanted, rank, found=None, close=CLOSE):
    """Names of gradients that are not this rank's slices of the whole ones."""
    largest = max(gradient.abs().max().item() for gradient in wanted.values())
    found = gradients(model) if found is None else found
    names = []
    for part in parts(model):
        if part.name not in wanted:
            continue
        expected = mine(wanted[part.name], part, rank, dist.get_world_size())
        gradient = found.get(part.name)
        same = gradient is not None and gradient.shape == expected.shape
        if not same or not (gradient - expected).abs().max() <= close * largest:
            names.append(part.name)
    return names


# Collectives that eager code calls on the group itself, by their names among the functional ones.
_FUNCTIONAL = {
    "allreduce_": "all_reduce", "_allgather_base_": "all_gather_into_tensor",
    "_reduce_scatter_base_": "reduce_scatter_tensor",
}  # fmt: skip


class Counter(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts collectives by kind."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kind = str(func).split(".")[1]
        if func.namespace in ("c10d", "_c10d_functional") and kind not in ("wait_tensor", "barrier"):
            kind = _FUNCTIONAL.get(kind, kind)
            self.counts[kind] = self.counts.get(kind, 0) + 1
        return func(*args, **(kwargs or {}))
