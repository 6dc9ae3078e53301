"""torch.compile of every layer: the same numbers, collectives inside of the graphs, and less that is saved."""

import pytest
import torch
from subjects import batch, gradients, loss, sharded, whole, wrong

from tpscope.engine.compiled import compile_layers
from tpscope.engine.gradients import finish_gradients
from tpscope.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")
PARTITIONED = "aot_eager_decomp_partition"


def _compiled(rank, plan, name, sequence_parallel, keep):
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model, unsharded = sharded(name, plan, sequence_parallel=sequence_parallel), whole(name)
    compile_layers(model, keep, PARTITIONED)
    for step in range(2):
        for one in (model, unsharded):
            loss(one, batch(one, step)).backward()
    finish_gradients(model)
    breaks = sum(counters["graph_break"].values())
    return wrong(model, gradients(unsharded), rank), breaks, dict(counters["graph_break"])


@pytest.mark.parametrize("keep", [None, 0.3])
@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["", "sequence parallel"])
def test_compiled_layers_give_the_same_gradients_without_a_break(ranks, plans, sequence_parallel, keep):
    for names, breaks, why in ranks(_compiled, 2, plans("qwen3-8b", 2), "qwen3-8b", sequence_parallel, keep):
        assert names == []
        assert breaks == 0, why


def _kept(rank, plan, ways):
    """Elements that a layer saves for its backward, each storage once, by how it was compiled."""
    import torch._dynamo

    found = {}
    for way, keep in ways.items():
        torch._dynamo.reset()
        model = sharded("qwen3-8b", plan)
        if way == "torch":
            for layer in model.model.layers:
                layer.compile(backend=PARTITIONED)
        else:
            compile_layers(model, keep, PARTITIONED)
        weights = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
        saved = {}

        def pack(tensor, saved=saved, weights=weights):
            if tensor.untyped_storage().data_ptr() not in weights:
                saved[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = model.model(input_ids=batch(model)["input_ids"], use_cache=False)
        found[way] = sum(saved.values())
        del hidden
    return found


def test_a_compiled_layer_saves_less_than_torch_would(ranks, plans):
    ways = {"torch": None, "ours": None, "less": 0.2}
    for found in ranks(_kept, 2, plans("qwen3-8b", 2), ways):
        assert found["ours"] < 0.75 * found["torch"]
        assert found["less"] < found["ours"]


def test_what_cannot_be_compiled_layer_by_layer_is_refused():
    with pytest.raises(UserError, match="no list of layers"):
        compile_layers(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="keep=2 is no part"):
        compile_layers(torch.nn.Linear(2, 2), keep=2)
