"""torch.compile of every layer: the same numbers, and collectives inside of the graphs."""

import pytest
from subjects import batch, gradients, loss, sharded, whole, wrong

from tpscope.engine.gradients import finish_gradients

pytestmark = pytest.mark.filterwarnings("ignore")


def _compiled(rank, plan, name, sequence_parallel):
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model, unsharded = sharded(name, plan, sequence_parallel=sequence_parallel), whole(name)
    for layer in model.model.layers:
        layer.compile(backend="aot_eager")
    for step in range(2):
        for one in (model, unsharded):
            loss(one, batch(one, step)).backward()
    finish_gradients(model)
    breaks = sum(counters["graph_break"].values())
    return wrong(model, gradients(unsharded), rank), breaks, dict(counters["graph_break"])


@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["", "sequence parallel"])
def test_compiled_layers_give_the_same_gradients_without_a_break(ranks, plans, sequence_parallel):
    for names, breaks, why in ranks(_compiled, 2, plans("qwen3-8b", 2), "qwen3-8b", sequence_parallel):
        assert names == []
        assert breaks == 0, why
